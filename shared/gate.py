"""What a gate judges: configurations, and the rules that speak of them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from shared.measurement import HEADLINE_MODE, Mode
from shared.recipes import Freeze
from shared.stressors import ANY
from shared.strict import Strict


class Configuration(Strict):
    """What a team would deploy: one editor and one recipe, seeds pooled."""

    editor: str
    paraphrases: int
    recipe: str
    freeze: Freeze

    def __str__(self) -> str:
        return f"{self.editor} · k={self.paraphrases} · {self.recipe} · freeze={self.freeze}"


class StressConfiguration(Strict):
    """An edited model under one stressor, seeds pooled."""

    editor: str
    paraphrases: int
    stressor: str

    def __str__(self) -> str:
        return f"{self.editor} · k={self.paraphrases} · {self.stressor}"


class GateRule(Strict):
    """A threshold that every matching configuration must clear at its one-sided 95 % bound.

    Give exactly one of `at_least` and `at_most`. Without selectors the rule holds for every
    configuration (editor × paraphrases × recipe × freeze). With `stressor` it holds for that stressor
    instead, or for every one (`*`).
    """

    metric: str = Field("retention", pattern=r"^(retention|excess_decay|reversion|efficacy|locality)$")
    mode: Mode = HEADLINE_MODE
    at_least: float | None = Field(None, ge=-1, le=1)
    at_most: float | None = Field(None, ge=-1, le=1)
    editor: str | None = None
    paraphrases: int | None = None
    recipe: str | None = None
    freeze: Freeze | None = None
    stressor: str | None = None

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give exactly one of 'at_least' and 'at_most'")
        return self

    def selects(self, configuration: Configuration | StressConfiguration) -> bool:
        """Whether the rule speaks of `configuration`."""
        if isinstance(configuration, StressConfiguration) != (self.stressor is not None):
            return False
        fields = type(configuration).model_fields
        wanted = {name: getattr(self, name) for name in ("editor", "paraphrases", "recipe", "freeze")}
        if self.stressor != ANY:
            wanted["stressor"] = self.stressor
        return all(
            name in fields and value == getattr(configuration, name)
            for name, value in wanted.items()
            if value is not None
        )


DEFAULT_GATE = (
    GateRule(metric="retention", at_least=0.8),
    GateRule(metric="excess_decay", at_most=0.1),
)


STRESS_GATE = tuple(rule.model_copy(update={"stressor": ANY}) for rule in DEFAULT_GATE)
