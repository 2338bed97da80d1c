"""Mitigations are compared with the plainest configuration of the same editor and recipe."""

from __future__ import annotations

import pytest

from services.worker.analysis.mitigations import plain_sibling, rank_mitigations
from shared.measurement import Mode
from shared.recipes import Freeze
from shared.requests import Configuration
from tests.worker.analysis.synthetic import failed_trial, findings, trial
from tests.worker.analysis.test_gate import kept

CONTROLS = kept(20, 20)


def configuration(
    paraphrases: int, freeze: Freeze = Freeze.NONE, editor: str = "memit", recipe: str = "wiki"
) -> Configuration:
    return Configuration(editor=editor, paraphrases=paraphrases, recipe=recipe, freeze=freeze)


def test_plain_sibling_has_the_fewest_paraphrases_and_nothing_frozen() -> None:
    present = [
        configuration(3, Freeze.EDITED),
        configuration(3),
        configuration(1),
        configuration(1, Freeze.EDITED),
    ]
    assert plain_sibling(present[0], present) == configuration(1)


def test_plain_sibling_shares_editor_and_recipe() -> None:
    present = [configuration(3), configuration(0, editor="rome"), configuration(0, recipe="other")]
    assert plain_sibling(present[0], present) == configuration(3)


def test_without_an_unfrozen_one_the_plain_sibling_is_frozen() -> None:
    present = [configuration(3, Freeze.EDITED), configuration(0, Freeze.EDITED)]
    assert plain_sibling(present[0], present) == configuration(0, Freeze.EDITED)


def test_gain_and_cost_are_differences_from_the_plain_sibling() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=3.0),
        trial(kept(45, 50), CONTROLS, configuration=configuration(3), loss_after=3.25),
    ]
    found = rank_mitigations(findings(trials), Mode.EXACT)
    assert len(found) == 1
    assert found[0].against == configuration(0)
    assert found[0].retention_gained.value == pytest.approx(0.3)
    assert found[0].retention_gained.interval is not None
    assert found[0].retention_gained.interval.low > 0.1
    assert found[0].task_loss_cost == pytest.approx(0.25)


def test_most_retention_gained_ranks_first_and_the_unmeasured_last() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0)),
        failed_trial(0, configuration(1)),
        trial(kept(35, 50), CONTROLS, configuration=configuration(3)),
        trial(kept(45, 50), CONTROLS, configuration=configuration(5)),
    ]
    ranked = rank_mitigations(findings(trials), Mode.EXACT)
    assert [(found.rank, found.configuration.paraphrases) for found in ranked] == [(1, 5), (2, 3), (3, 1)]


def test_equal_gains_rank_by_their_cost() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=3.0),
        trial(kept(40, 50), CONTROLS, configuration=configuration(1), loss_after=3.2),
        trial(kept(40, 50), CONTROLS, configuration=configuration(3), loss_after=3.1),
    ]
    ranked = rank_mitigations(findings(trials), Mode.EXACT)
    assert [found.configuration.paraphrases for found in ranked] == [3, 1]


def test_task_cost_compares_only_seeds_that_both_have() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=3.0, seed=0),
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=9.0, seed=1),
        trial(kept(40, 50), CONTROLS, configuration=configuration(3), loss_after=3.5, seed=0),
    ]
    assert rank_mitigations(findings(trials), Mode.EXACT)[0].task_loss_cost == pytest.approx(0.5)


def test_a_single_configuration_has_no_mitigations() -> None:
    assert rank_mitigations(findings([trial(kept(3, 5), CONTROLS)]), Mode.EXACT) == []
