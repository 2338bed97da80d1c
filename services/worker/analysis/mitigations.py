"""What paraphrases and freezing gain, and what they cost, measured against doing without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.bootstrap import bootstrap_interval, difference_of_shares, paired_shares_sample
from services.worker.analysis.retention import locality, retention
from shared.measurement import FactKind, Mode
from shared.recipes import Freeze
from shared.reports import Difference, Mitigation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import AuditFindings, Trial
    from shared.requests import Configuration


def rank_mitigations(findings: AuditFindings, mode: Mode) -> list[Mitigation]:
    """Every configuration that has a plainer sibling, most retention gained first.

    Equal gains are ordered by what they cost on the tuning task, then on locality; what could not be
    measured comes last.
    """
    found = []
    for configuration in findings.configurations:
        plain = plain_sibling(configuration, findings.configurations)
        if plain != configuration:
            found.append(
                compare(
                    configuration, plain, findings.trials_of(configuration), findings.trials_of(plain), mode
                )
            )
    ranked = sorted(found, key=_order)
    return [mitigation.model_copy(update={"rank": rank}) for rank, mitigation in enumerate(ranked, start=1)]


def plain_sibling(configuration: Configuration, configurations: Sequence[Configuration]) -> Configuration:
    """The same editor and recipe with the fewest paraphrases present and, where present, nothing frozen."""
    siblings = [
        other
        for other in configurations
        if (other.editor, other.recipe) == (configuration.editor, configuration.recipe)
    ]
    return min(siblings, key=lambda other: (other.freeze is not Freeze.NONE, other.paraphrases))


def compare(
    configuration: Configuration,
    plain: Configuration,
    trials: Sequence[Trial],
    plain_trials: Sequence[Trial],
    mode: Mode,
) -> Mitigation:
    """Gain and costs of one configuration over its plain sibling."""
    spared, plain_spared = locality(trials, mode).value, locality(plain_trials, mode).value
    return Mitigation(
        configuration=configuration,
        against=plain,
        retention_gained=retention_gained(trials, plain_trials, mode),
        task_loss_cost=task_loss_cost(trials, plain_trials),
        locality_cost=None if spared is None or plain_spared is None else plain_spared - spared,
        rank=0,
    )


def retention_gained(trials: Sequence[Trial], plain_trials: Sequence[Trial], mode: Mode) -> Difference:
    """Retention of edits − the sibling's, with a bootstrap that resamples facts, paired.

    Each side counts the edits that were right in its own model just before tuning.
    """
    treated = retention(trials, FactKind.EDIT, mode)
    plain = retention(plain_trials, FactKind.EDIT, mode)
    value = interval = None
    if treated.value is not None and plain.value is not None:
        value = treated.value - plain.value
        interval = bootstrap_interval(difference_of_shares, [paired_shares_sample(treated, plain)], value)
    return Difference(
        name="retention_gained",
        mode=mode,
        value=value,
        interval=interval,
        edits=len({*treated.facts, *plain.facts}),
        controls=0,
    )


def task_loss_cost(trials: Sequence[Trial], plain_trials: Sequence[Trial]) -> float | None:
    """Held-out loss after tuning − the sibling's, nats per token, mean over the seeds that both have."""
    losses, plain_losses = (
        {trial.seed: trial.held_out_loss_after for trial in side} for side in (trials, plain_trials)
    )
    costs = [
        loss - plain_loss
        for seed, loss in losses.items()
        if loss is not None and (plain_loss := plain_losses.get(seed)) is not None
    ]
    return float(np.mean(costs)) if costs else None


def _order(mitigation: Mitigation) -> tuple[float, float, float]:
    worst = float("inf")
    gain, task, local = (
        mitigation.retention_gained.value,
        mitigation.task_loss_cost,
        mitigation.locality_cost,
    )
    return (
        worst if gain is None else -gain,
        worst if task is None else task,
        worst if local is None else local,
    )
