"""What `POST /audits` and `POST /audits/{id}/retry` take."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from shared.editors import CATALOGUE
from shared.edits import ControlFact, Edit
from shared.measurement import HEADLINE_MODE, Mode
from shared.recipes import Freeze, Recipe, Strict

MAX_EDITS = 10_000
MAX_TRIALS = 500
LONGEST_DEADLINE_SECONDS = 90 * 86400
LABEL_KEY = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$"


class EditorChoice(Strict):
    """An editor, its hyperparameters, and how many paraphrases each edit is augmented with.

    `paraphrases` is an axis: the editor runs once per entry.
    """

    name: str
    label: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$",
        description="What the report calls this choice; by default the editor's name.",
    )
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    paraphrases: tuple[Annotated[int, Field(ge=0, le=50)], ...] = Field((0,), min_length=1, max_length=8)

    @model_validator(mode="after")
    def _known_and_valid(self) -> Self:
        if self.name not in CATALOGUE:
            raise ValueError(f"name: unknown editor '{self.name}'; known: {', '.join(sorted(CATALOGUE))}")
        if len(set(self.paraphrases)) != len(self.paraphrases):
            raise ValueError("'paraphrases' names a count twice")
        try:
            CATALOGUE[self.name].hyperparameters.model_validate(self.hyperparameters)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in ("hyperparameters", *first["loc"]))
            raise ValueError(f"{field}: {first['msg']}") from None
        return self

    @property
    def key(self) -> str:
        """What the report calls this choice."""
        return self.label or self.name


class Controls(Strict):
    """Facts nobody edits. Without `facts`, neighbourhood prompts and `unedited` records serve."""

    facts: tuple[ControlFact, ...] = Field((), max_length=MAX_EDITS)
    unedited: tuple[Edit, ...] = Field(
        (), max_length=MAX_EDITS, description="Records that are not carried out; they keep `target_true`."
    )
    maximum: int = Field(200, ge=1, le=MAX_EDITS, description="Keep at most this many.")


class Configuration(Strict):
    """What a team would deploy: one editor and one recipe, seeds pooled."""

    editor: str
    paraphrases: int
    recipe: str
    freeze: Freeze

    def __str__(self) -> str:
        return f"{self.editor} · k={self.paraphrases} · {self.recipe} · freeze={self.freeze}"


class GateRule(Strict):
    """A threshold that every matching configuration must clear at its one-sided 95 % bound.

    Give exactly one of `at_least` and `at_most`. Without selectors the rule holds for every
    configuration (editor × paraphrases × recipe × freeze).
    """

    metric: str = Field("retention", pattern=r"^(retention|excess_decay|reversion|efficacy|locality)$")
    mode: Mode = HEADLINE_MODE
    at_least: float | None = Field(None, ge=-1, le=1)
    at_most: float | None = Field(None, ge=-1, le=1)
    editor: str | None = None
    paraphrases: int | None = None
    recipe: str | None = None
    freeze: Freeze | None = None

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give exactly one of 'at_least' and 'at_most'")
        return self

    def selects(self, configuration: Configuration) -> bool:
        """Whether the rule speaks of `configuration`."""
        return all(
            wanted is None or wanted == getattr(configuration, field)
            for field in Configuration.model_fields
            for wanted in (getattr(self, field),)
        )


class Deadlines(Strict):
    """How long an audit may take before it is given up; what is left out is the operator's default."""

    queue_seconds: int | None = Field(
        None,
        ge=1,
        le=LONGEST_DEADLINE_SECONDS,
        description="Seconds from its submission to its first worker; then it ends as `expired`.",
    )
    run_seconds: int | None = Field(
        None,
        ge=1,
        le=LONGEST_DEADLINE_SECONDS,
        description="Seconds from its first worker to its end; then it ends as `expired`.",
    )


DEFAULT_GATE = (
    GateRule(metric="retention", at_least=0.8),
    GateRule(metric="excess_decay", at_most=0.1),
)


class AuditRequest(Strict):
    """An audit: a model, edits, the editors that apply them and the recipes that follow."""

    model: str = Field(
        min_length=1,
        max_length=500,
        description="`builtin:almanac`, `hf:org/name@revision`, or `local:DIRECTORY` under a model root.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    edits: tuple[Edit, ...] = Field(min_length=1, max_length=MAX_EDITS)
    editors: tuple[EditorChoice, ...] = Field(min_length=1, max_length=20)
    recipes: tuple[Recipe, ...] = Field(min_length=1, max_length=50)
    controls: Controls = Controls()
    gate: tuple[GateRule, ...] = Field(DEFAULT_GATE, min_length=1, max_length=50)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1, max_length=20)
    labels: dict[Annotated[str, Field(pattern=LABEL_KEY)], Annotated[str, Field(max_length=255)]] = Field(
        default_factory=dict, max_length=32
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Audits of higher priority are taken first; submitters take turns."
    )
    deadlines: Deadlines = Deadlines()

    @model_validator(mode="after")
    def _edits_agree(self) -> Self:
        first_at: dict[str, int] = {}
        for index, edit in enumerate(self.edits):
            earlier = first_at.setdefault(" ".join(edit.full_prompt.split()), index)
            if earlier != index:
                same = edit.target_new == self.edits[earlier].target_new
                relation = "repeats" if same else "conflicts with"
                raise ValueError(f"edits.{index} {relation} edits.{earlier}: '{edit.full_prompt}'")
        return self

    @model_validator(mode="after")
    def _editors_have_the_paraphrases(self) -> Self:
        needed = max(count for editor in self.editors for count in editor.paraphrases)
        for index, edit in enumerate(self.edits):
            if len(edit.paraphrases) < needed:
                raise ValueError(
                    f"edits.{index}.paraphrases: an editor asks for {needed},"
                    f" the edit has {len(edit.paraphrases)}"
                )
        return self

    @model_validator(mode="after")
    def _axes_are_distinct(self) -> Self:
        for field, names in (
            ("editors", [editor.key for editor in self.editors]),
            ("recipes", [recipe.name for recipe in self.recipes]),
            ("seeds", list(self.seeds)),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{field}: every entry needs its own name (editors may set 'label')")
        return self

    @model_validator(mode="after")
    def _gate_rules_select_something(self) -> Self:
        for index, rule in enumerate(self.gate):
            if not any(rule.selects(configuration) for configuration in self.configurations()):
                raise ValueError(f"gate.{index}: no configuration of this audit matches the rule")
        return self

    @model_validator(mode="after")
    def _matrix_is_bounded(self) -> Self:
        trials = len(self.configurations()) * len(self.seeds)
        if trials > MAX_TRIALS:
            raise ValueError(f"{trials} trials (editors × recipes × seeds) exceed the limit of {MAX_TRIALS}")
        return self

    def configurations(self) -> list[Configuration]:
        """Every editor × paraphrases × recipe × freeze, in the request's order."""
        return [
            Configuration(editor=editor.key, paraphrases=count, recipe=recipe.name, freeze=freeze)
            for editor in self.editors
            for count in editor.paraphrases
            for recipe in self.recipes
            for freeze in recipe.freeze
        ]


class RetryRequest(Strict):
    """How an audit that has ended is done again: by default with what it computed."""

    start: Literal["checkpoint", "scratch"] = Field(
        "checkpoint",
        alias="from",
        description="`checkpoint`: steps that succeeded, and fine-tunings that were interrupted, are taken "
        "over from earlier audits. `scratch`: nothing is.",
    )
