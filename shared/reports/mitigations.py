"""What paraphrases and freezing gained, and what they cost."""

from __future__ import annotations

from shared.reports.parts import PER_TOKEN, Difference, Interval, ReportPart
from shared.requests import Configuration


class LossDifference(ReportPart):
    """Held-out loss of the tuning task after tuning, one configuration's − another's, in `unit`.

    The mean over the seeds that both have; with one seed there is no interval. Per pair, where the recipe
    learns preferences, each loss is relative to the configuration's own model as it was before tuning.
    """

    name: str
    value: float | None
    interval: Interval | None
    seeds: int
    how: str
    unit: str = PER_TOKEN


class Mitigation(ReportPart):
    """A configuration against its plain sibling (fewest paraphrases, nothing frozen, same editor and recipe).

    Costs above zero are losses: locality_cost of neighbours by editing alone, locality_cost_tuned in the
    model as deployed, after tuning. gained_per_nat, gained_per_neighbour: retention gained over the task's
    cost and over locality_cost_tuned; None where the cost is not above zero. front: 1 where no sibling, the
    plain one included, gains as much at no higher cost (`pareto`), 2 where only those of the first front do,
    and so on; None where something was not measured.
    """

    configuration: Configuration
    against: Configuration
    retention_gained: Difference
    task_loss_cost: LossDifference
    locality_cost: Difference
    locality_cost_tuned: Difference
    gained_per_nat: float | None = None
    gained_per_neighbour: float | None = None
    front: int | None = None
    pareto: bool = False
    rank: int = 0
