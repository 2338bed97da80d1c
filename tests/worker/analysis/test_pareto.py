"""Pareto fronts of small sets, by hand and by brute force."""

from __future__ import annotations

import numpy as np

from services.worker.analysis.pareto import dominated, pareto_fronts


def test_better_on_one_count_and_as_good_on_the_others_dominates() -> None:
    assert dominated(np.array([[1.0, 0.0], [1.0, 1.0], [2.0, -1.0]])).tolist() == [True, False, False]


def test_equal_choices_do_not_dominate_each_other() -> None:
    assert not dominated(np.ones((3, 2))).any()


def test_fronts_peel_off_one_by_one() -> None:
    chain = np.array([[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]])
    assert pareto_fronts(chain).tolist() == [3, 1, 2]


def test_every_choice_behind_the_first_front_is_dominated_from_the_front_before_it() -> None:
    choices = np.random.default_rng(0).normal(size=(60, 3)).round(1)
    fronts = pareto_fronts(choices)
    for choice, front in zip(choices, fronts, strict=True):
        beaters = (choices >= choice).all(axis=1) & (choices > choice).any(axis=1)
        assert front == 1 + max(fronts[beaters], default=0)


def test_nothing_has_no_fronts() -> None:
    assert pareto_fronts(np.empty((0, 2))).tolist() == []
