"""Findings of audits that never ran, written down answer by answer or drawn at random."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.inputs import AuditFindings, EditFeatures, ScoredProbe, Trial
from shared.measurement import Arm, FactKind, ProbeKind, ProbeScore
from shared.recipes import Freeze
from shared.reports import (
    Effect,
    Interval,
    KeyStatisticsUsed,
    Mentions,
    Provenance,
    StepProblem,
    Tracing,
    WeightDrift,
)
from shared.requests import DEFAULT_GATE, Configuration
from shared.states import Cause, StepKind, StepStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.requests import GateRule

PLAIN = Configuration(editor="memit", paraphrases=0, recipe="wiki", freeze=Freeze.NONE)


def score(right: bool, *, margin: float = 1.0, alternative: bool | None = False) -> ProbeScore:
    """A score that is right or wrong in every mode alike.

    alternative: whether the alternative is what the model says now; None where there is no alternative.
    """
    return ProbeScore(
        first_token=right,
        exact=right,
        preference=None if alternative is None else right,
        log_prob_answer=-1.0,
        log_prob_alternative=None if alternative is None else -1.0 - margin,
        alternative_exact=alternative,
        predicted_token=" Paris",  # noqa: S106 (not a password)
    )


def rows(
    arm: Arm,
    fact_kind: FactKind,
    answers: Sequence[bool],
    *,
    tuning_step: int = 0,
    probe_kind: ProbeKind = ProbeKind.REWRITE,
    relation: str | None = None,
    margins: Sequence[float] | None = None,
    reverted: Sequence[bool | None] | None = None,
) -> list[ScoredProbe]:
    """One probe per fact, the facts numbered from 0."""
    return [
        ScoredProbe(
            fact_id=f"{fact_kind}:{index}",
            fact_kind=fact_kind,
            probe_kind=probe_kind,
            probe_index=0,
            arm=arm,
            tuning_step=tuning_step,
            relation=relation,
            score=score(
                right,
                margin=margins[index] if margins else 1.0,
                alternative=reverted[index] if reverted else False,
            ),
        )
        for index, right in enumerate(answers)
    ]


def trial(
    edits: tuple[Sequence[bool], Sequence[bool]],
    controls: tuple[Sequence[bool], Sequence[bool]],
    *,
    seed: int = 0,
    configuration: Configuration = PLAIN,
    loss_after: float | None = 3.0,
) -> Trial:
    """A trial from the answers just before and after tuning, of edits and of controls."""
    return Trial(
        configuration=configuration,
        seed=seed,
        step_id=f"tune-{seed}",
        status=StepStatus.SUCCEEDED,
        held_out_loss_before=3.5,
        held_out_loss_after=loss_after,
        arms={
            Arm.EDITED: rows(Arm.EDITED, FactKind.EDIT, edits[0])
            + rows(Arm.EDITED, FactKind.CONTROL, controls[0]),
            Arm.EDITED_TUNED: rows(Arm.EDITED_TUNED, FactKind.EDIT, edits[1], tuning_step=10)
            + rows(Arm.EDITED_TUNED, FactKind.CONTROL, controls[1], tuning_step=10),
        },
    )


def failed_trial(seed: int, configuration: Configuration = PLAIN, error: str = "out of memory") -> Trial:
    """A trial whose tuning did not get anywhere."""
    return Trial(
        configuration=configuration, seed=seed, step_id=f"tune-{seed}", status=StepStatus.FAILED, error=error
    )


def simulated_trials(
    generator: np.random.Generator,
    configuration: Configuration,
    seeds: Sequence[int],
    *,
    kept: float,
    controls_kept: float,
    edits: int = 60,
    controls: int = 120,
    spared_of_nine: int = 8,
    loss_after: float = 3.0,
) -> list[Trial]:
    """Trials over all four arms with three probed steps; facts have a lifetime that seeds share."""
    steps = (1, 8, 60)
    relations = ("capital", "language", "maker")
    strength = {FactKind.EDIT: generator.random(edits), FactKind.CONTROL: generator.random(controls)}
    taken = generator.random(edits) < 0.9
    found = []
    for seed in seeds:
        arms: dict[Arm, list[ScoredProbe]] = {arm: [] for arm in Arm}
        noise = {kind: 0.08 * generator.standard_normal(len(strength[kind])) for kind in FactKind}

        def add(
            arm: Arm, kind: FactKind, probe: ProbeKind, answers: np.ndarray, step: int, arms=arms
        ) -> None:
            for index, right in enumerate(answers):
                reverted = kind is FactKind.EDIT and not right and index % 3 > 0
                arms[arm].append(
                    ScoredProbe(
                        fact_id=f"{kind}:{index}",
                        fact_kind=kind,
                        probe_kind=probe,
                        probe_index=0,
                        arm=arm,
                        tuning_step=step,
                        relation=relations[index % 3],
                        score=score(
                            bool(right), margin=2 + 3 * float(strength[kind][index]), alternative=reverted
                        ),
                    )
                )

        everything = np.ones(controls, dtype=bool)
        add(Arm.BASE, FactKind.EDIT, ProbeKind.REWRITE, ~np.ones(edits, dtype=bool), 0)
        add(Arm.BASE, FactKind.EDIT, ProbeKind.NEIGHBORHOOD, np.arange(edits) % 10 > 0, 0)
        add(Arm.BASE, FactKind.CONTROL, ProbeKind.REWRITE, everything, 0)
        add(Arm.EDITED, FactKind.EDIT, ProbeKind.REWRITE, taken, 0)
        add(Arm.EDITED, FactKind.EDIT, ProbeKind.PARAPHRASE, taken & (np.arange(edits) % 4 > 0), 0)
        add(Arm.EDITED, FactKind.EDIT, ProbeKind.NEIGHBORHOOD, np.arange(edits) % 9 < spared_of_nine, 0)
        add(Arm.EDITED, FactKind.CONTROL, ProbeKind.REWRITE, np.arange(controls) % 15 > 0, 0)
        for number, step in enumerate(steps, start=1):
            share = number / len(steps)
            for arm, kind, alive in (
                (Arm.BASE_TUNED, FactKind.CONTROL, 1 - (1 - controls_kept) / 2 * share),
                (Arm.EDITED_TUNED, FactKind.CONTROL, 1 - (1 - controls_kept) * share),
                (Arm.EDITED_TUNED, FactKind.EDIT, 1 - (1 - kept) * share),
            ):
                answers = strength[kind] + noise[kind] < alive
                if kind is FactKind.EDIT:
                    answers = answers & taken
                elif arm is Arm.EDITED_TUNED:
                    answers = answers & (np.arange(controls) % 15 > 0)
                add(arm, kind, ProbeKind.REWRITE, answers, step)
            add(
                Arm.EDITED_TUNED,
                FactKind.EDIT,
                ProbeKind.NEIGHBORHOOD,
                (np.arange(edits) % 9 < spared_of_nine) & (noise[FactKind.EDIT] < 0.1),
                step,
            )
        found.append(
            Trial(
                configuration=configuration,
                seed=seed,
                step_id=f"tune-{configuration.editor}-{seed}",
                status=StepStatus.SUCCEEDED,
                held_out_loss_before=3.42,
                held_out_loss_after=loss_after + 0.01 * seed,
                arms=arms,
            )
        )
    return found


PROVENANCE = Provenance(
    holdfast_version="0.1.0",
    python_version="3.11.2",
    packages={"torch": "2.13.0", "transformers": "5.23.0"},
    model="builtin:almanac",
    model_revision="4f1c" * 8,
    dtype="float32",
    edit_set_hash="9b" * 32,
    data_hashes={"wiki": "c0ffee" * 8},
    seeds=[0, 1, 2],
    device="cpu",
    platform="Linux-6.1-x86_64",
    threads=2,
)


def findings(
    trials: Sequence[Trial],
    *,
    gate: Sequence[GateRule] = DEFAULT_GATE,
    problems: Sequence[StepProblem] = (),
    warnings: Sequence[str] = (),
    changes: Mapping[str, object] | None = None,
    tracing: Tracing | None = None,
    key_statistics: Sequence[KeyStatisticsUsed] = (),
    edit_features: Mapping[str, EditFeatures] | None = None,
) -> AuditFindings:
    """Findings made of these trials."""
    provenance = PROVENANCE.model_copy(update=changes or {})
    return AuditFindings(
        audit_id="0123456789abcdef0123456789abcdef",
        created_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        configurations=list(dict.fromkeys(trial.configuration for trial in trials)),
        gate=gate,
        trials=trials,
        edits=60,
        controls=120,
        control_candidates=180,
        problems=problems,
        warnings=warnings,
        provenance=provenance,
        tracing=tracing,
        key_statistics=key_statistics,
        features=edit_features or {},
    )


def traced(editor: str = "memit", blocks: Sequence[int] = (1, 2, 3)) -> Tracing:
    """Effects in six blocks, with one editor's pick."""
    values = (0.05, 0.11, 0.21, 0.16, 0.02, -0.01)
    effects = [
        Effect(
            value=value,
            interval=Interval(low=value - 0.03, high=value + 0.03, level=0.95, method="Student's t"),
        )
        for value in values
    ]
    return Tracing(
        candidates=60,
        facts=48,
        width=3,
        clean=0.914,
        corrupted=0.067,
        states=effects[::-1],
        mlps=effects,
        picked={editor: list(blocks)},
    )


def features(edits: int = 60, text: str = "Ada Lovelace") -> dict[str, EditFeatures]:
    """What is known of each edit beside its scores."""
    return {
        f"edit:{index}": EditFeatures(
            index=index,
            prompt="The home town of {} is",
            subject=f"{text} {index}",
            target_new="Rome",
            target_true="Oslo",
            paraphrases=3,
            target_tokens=1 + index % 3,
            mentions={"wiki": Mentions(target_new=index % 5, target_true=index % 7, subject=0)},
        )
        for index in range(edits)
    }


def drift(block: int, cosine: float = -0.12) -> WeightDrift:
    """Of one matrix, somewhat against what the editor wrote."""
    return WeightDrift(
        parameter=f"transformer.h.{block}.mlp.c_proj.weight",
        rows=768,
        columns=192,
        rank=40,
        seeds=1,
        edit_norm=4.0,
        tuning_norm=1.0,
        cosine=cosine,
        energy_left=0.21,
        energy_right=0.4,
        energy_inside=0.09,
    )


def synthetic_audit() -> AuditFindings:
    """Two editors, two paraphrase counts, two freezings, three seeds; one tuning ran out of memory."""
    generator = np.random.default_rng(7)
    kept = {("memit", 0): 0.72, ("memit", 3): 0.9, ("ft_l", 0): 0.45, ("ft_l", 3): 0.62}
    trials: list[Trial] = []
    for (editor, paraphrases), share in kept.items():
        for freeze in (Freeze.NONE, Freeze.EDITED):
            configuration = Configuration(
                editor=editor, paraphrases=paraphrases, recipe="wiki", freeze=freeze
            )
            frozen = freeze is Freeze.EDITED
            trials += simulated_trials(
                generator,
                configuration,
                (0, 1, 2),
                kept=min(0.97, share + 0.08 * frozen),
                controls_kept=0.93,
                spared_of_nine=7 if paraphrases else 8,
                loss_after=3.0 + 0.05 * frozen + 0.002 * paraphrases,
            )
    lost = trials[-1]
    trials[-1] = failed_trial(lost.seed, lost.configuration, "CUDA out of memory")
    problem = StepProblem(
        step_id=lost.step_id,
        title=f"{StepKind.TUNE}: {lost.configuration}, seed {lost.seed}",
        status=StepStatus.FAILED,
        cause=Cause.INFRASTRUCTURE,
        error="CUDA out of memory",
    )
    used = KeyStatisticsUsed(
        editor="memit", corpus="file:wiki.txt", tokens=98_765, split_half={1: 0.034, 2: 0.0512}
    )
    drifting = [replace(trial, drift=[drift(1), drift(2, 0.03)]) if trial.arms else trial for trial in trials]
    return findings(
        drifting,
        edit_features=features(),
        problems=[problem],
        warnings=["Only 60 edits were probed."],
        tracing=traced(),
        key_statistics=[used],
    )
