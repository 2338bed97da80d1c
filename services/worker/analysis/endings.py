"""Comparisons of tunings that stopped early at different steps, and so are of different amounts of tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.mitigations import plain_sibling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import AuditFindings, Trial
    from shared.requests import Configuration

Ends = tuple[int, int, int]  # a seed, and the last steps of the two sides that are compared


def ending_warnings(findings: AuditFindings) -> list[str]:
    """What is compared at unlike ends: the arms of trials, then mitigations and their plain siblings."""
    return [
        warning
        for configuration in findings.configurations
        for warning in (
            arms_warning(configuration, findings.trials_of(configuration)),
            mitigation_warning(configuration, findings),
        )
        if warning is not None
    ]


def arms_warning(configuration: Configuration, trials: Sequence[Trial]) -> str | None:
    """Where the edited and the base model of a seed were tuned for different numbers of steps."""
    unlike = [
        (trial.seed, trial.steps, trial.base_steps)
        for trial in trials
        if trial.steps is not None and trial.base_steps is not None and trial.steps != trial.base_steps
    ]
    if not unlike:
        return None
    return (
        f"{configuration}: tuning ended at different steps in edited→tuned and base→tuned ({told(unlike)}). "
        "The interaction compares each at its own end, and has in it that one was tuned for longer."
    )


def mitigation_warning(configuration: Configuration, findings: AuditFindings) -> str | None:
    """Where a mitigation and the configuration that it is compared with were."""
    plain = plain_sibling(configuration, findings.configurations)
    plain_steps = {trial.seed: trial.steps for trial in findings.trials_of(plain)}
    unlike = [
        (trial.seed, trial.steps, other)
        for trial in findings.trials_of(configuration)
        if trial.steps is not None
        and (other := plain_steps.get(trial.seed)) is not None
        and trial.steps != other
    ]
    if not unlike:
        return None
    return (
        f"{configuration} against {plain}: tuning ended at different steps ({told(unlike)}). What was gained "
        "and what it cost compare each at its own end, and have in them that one was tuned for longer."
    )


def told(unlike: Sequence[Ends]) -> str:
    """The seeds with the two ends of each: "seed 0: 50 and 70"."""
    return ", ".join(f"seed {seed}: {one} and {other}" for seed, one, other in unlike)
