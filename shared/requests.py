"""What `POST /audits` and `POST /audits/{id}/retry` take."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from shared.editors import CATALOGUE, MendHyperparameters
from shared.edits import ControlFact, Edit, disagreements
from shared.further_edits import faults_of_further_edits
from shared.gate import DEFAULT_GATE as DEFAULT_GATE
from shared.gate import STRESS_GATE
from shared.gate import Configuration as Configuration
from shared.gate import GateRule as GateRule
from shared.gate import StressConfiguration as StressConfiguration
from shared.measurement import Mode
from shared.paraphrases import LEAD_INS, OWN, TEMPLATES, ParaphraseSourceName
from shared.probing import Probing
from shared.recipes import Freeze, Recipe
from shared.stressors import FurtherEdits, Stressor, key_of
from shared.strict import Strict
from shared.training_edits import FEWEST_TRAINING_EDITS, unmeasured
from shared.tuned_models import TunedModel

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
    paraphrase_source: ParaphraseSourceName = OWN

    @model_validator(mode="after")
    def _known_and_valid(self) -> Self:
        if self.name not in CATALOGUE:
            raise ValueError(f"name: unknown editor '{self.name}'; known: {', '.join(sorted(CATALOGUE))}")
        if len(set(self.paraphrases)) != len(self.paraphrases):
            raise ValueError("'paraphrases' names a count twice")
        if any(self.paraphrases) and not CATALOGUE[self.name].augmentable:
            raise ValueError(f"paraphrases: '{self.name}' makes no edits, so that none can be augmented")
        if self.paraphrase_source == TEMPLATES and max(self.paraphrases) > len(LEAD_INS):
            raise ValueError(f"paraphrases: the templates give {len(LEAD_INS)} at most")
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

    @property
    def own_paraphrases(self) -> int:
        """The most of its own paraphrases that any edit is augmented with."""
        return max(self.paraphrases) if self.paraphrase_source == OWN else 0


class Controls(Strict):
    """Facts nobody edits. Without `facts`, neighbourhood prompts and `unedited` records serve."""

    facts: tuple[ControlFact, ...] = Field((), max_length=MAX_EDITS)
    unedited: tuple[Edit, ...] = Field(
        (), max_length=MAX_EDITS, description="Records that are not carried out; they keep `target_true`."
    )
    maximum: int = Field(200, ge=1, le=MAX_EDITS, description="Keep at most this many.")


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


class AuditRequest(Strict):
    """An audit: a model, edits, the editors that apply them, and what is done to the edited model.

    That is at least one of `recipes` by which it is fine-tuned, `stressors` that it is put under, and `tuned`
    models that came of it elsewhere. The gate of an audit of stressors alone is by default about these.
    """

    model: str = Field(
        min_length=1,
        max_length=500,
        description="`builtin:almanac`, `hf:org/name@revision`, or `local:DIRECTORY` under a model root.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    edits: tuple[Edit, ...] = Field(min_length=1, max_length=MAX_EDITS)
    editors: tuple[EditorChoice, ...] = Field(min_length=1, max_length=20)
    recipes: tuple[Recipe, ...] = Field((), max_length=50)
    stressors: tuple[Stressor, ...] = Field((), max_length=20)
    tuned: tuple[TunedModel, ...] = Field((), max_length=20)
    controls: Controls = Controls()
    probing: Probing = Probing()
    gate: tuple[GateRule, ...] = Field(DEFAULT_GATE, min_length=1, max_length=50)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1, max_length=20)
    labels: dict[Annotated[str, Field(pattern=LABEL_KEY)], Annotated[str, Field(max_length=255)]] = Field(
        default_factory=dict, max_length=32
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Audits of higher priority are taken first; submitters take turns."
    )
    deadlines: Deadlines = Deadlines()

    @model_validator(mode="before")
    @classmethod
    def _gate_is_about_what_is_done(cls, request: Any) -> Any:
        if not isinstance(request, dict) or not request.get("stressors"):
            return request
        if request.get("gate") is None and not request.get("recipes") and not request.get("tuned"):
            return {**request, "gate": [rule.model_dump(mode="json") for rule in STRESS_GATE]}
        return request

    @model_validator(mode="after")
    def _something_is_done(self) -> Self:
        if not (self.recipes or self.stressors or self.tuned):
            raise ValueError("recipes: give a recipe, a stressor or a tuned model")
        return self

    @model_validator(mode="after")
    def _edits_agree(self) -> Self:
        if faults := disagreements(enumerate(self.edits)):
            raise ValueError("\n".join(faults.values()))
        return self

    @model_validator(mode="after")
    def _editors_have_the_paraphrases(self) -> Self:
        needed = max(editor.own_paraphrases for editor in self.editors)
        for index, edit in enumerate(self.edits):
            if len(edit.paraphrases) < needed:
                raise ValueError(
                    f"edits.{index}.paraphrases: an editor asks for {needed},"
                    f" the edit has {len(edit.paraphrases)}"
                )
        return self

    @model_validator(mode="after")
    def _editors_have_edits_to_be_trained_on(self) -> Self:
        for index, choice in enumerate(self.editors):
            chosen = CATALOGUE[choice.name].settle(self.model, choice.hyperparameters)
            if not isinstance(chosen, MendHyperparameters) or chosen.training != "unedited":
                continue
            unedited, facts = self.controls.unedited, self.controls.facts
            found = len(unmeasured(unedited, self.edits, facts, unedited))
            if found < FEWEST_TRAINING_EDITS:
                why = "" if facts else "; without 'controls.facts' they all serve as controls"
                raise ValueError(
                    f"editors.{index}.hyperparameters.training: {found} of {len(unedited)} unedited records"
                    f" are not measured, {FEWEST_TRAINING_EDITS} are needed{why}"
                )
        return self

    @model_validator(mode="after")
    def _axes_are_distinct(self) -> Self:
        for field, names in (
            ("editors", [editor.key for editor in self.editors]),
            ("recipes", [recipe.name for recipe in self.recipes]),
            ("tuned", [*(recipe.name for recipe in self.recipes), *(model.name for model in self.tuned)]),
            ("stressors", [key_of(stressor) for stressor in self.stressors]),
            ("seeds", list(self.seeds)),
        ):
            if len(set(names)) != len(names):
                raise ValueError(
                    f"{field}: every entry needs its own name (editors and stressors may set 'label')"
                )
        return self

    @model_validator(mode="after")
    def _tuned_models_have_an_editor(self) -> Self:
        for index, model in enumerate(self.tuned):
            choices = [choice for choice in self.editors if model.editor in (None, choice.key)]
            if len(choices) != 1:
                known = ", ".join(choice.key for choice in self.editors)
                raise ValueError(f"tuned.{index}.editor: must be one of the audit's editors: {known}")
            if len(choices[0].paraphrases) != 1:
                raise ValueError(
                    f"tuned.{index}.editor: '{choices[0].key}' runs with several counts of paraphrases"
                )
        return self

    @model_validator(mode="after")
    def _matrix_is_bounded(self) -> Self:
        # Counted rather than laid out, which the other checks may do once it is known to be small.
        edited = sum(len(editor.paraphrases) for editor in self.editors)
        done = sum(len(recipe.freeze) for recipe in self.recipes) + len(self.stressors)
        trials = (edited * done + len(self.tuned)) * len(self.seeds)
        if trials > MAX_TRIALS:
            raise ValueError(
                f"{trials} trials (editors × recipes and stressors × seeds) exceed the limit of {MAX_TRIALS}"
            )
        return self

    @model_validator(mode="after")
    def _gate_rules_select_something(self) -> Self:
        configurations: list[Configuration | StressConfiguration] = [
            *self.configurations(),
            *self.stress_configurations(),
        ]
        for index, rule in enumerate(self.gate):
            if not any(rule.selects(part) for part in configurations):
                raise ValueError(f"gate.{index}: no configuration of this audit matches the rule")
        return self

    @model_validator(mode="after")
    def _gate_rules_can_be_scored(self) -> Self:
        for index, rule in enumerate(self.gate):
            if rule.mode is not Mode.CONTAINS:
                continue
            if self.probing.contains_tokens is None:
                raise ValueError(f"gate.{index}.mode: 'contains' needs 'probing.contains_tokens'")
            if rule.metric == "locality":
                raise ValueError(
                    f"gate.{index}.mode: neighbourhood prompts are not continued, so that locality is not "
                    "scored in 'contains'"
                )
        return self

    @model_validator(mode="after")
    def _further_edits_can_be_made(self) -> Self:
        faults = faults_of_further_edits(self.stressors, self.edits, self.controls.unedited, self.seeds)
        if faults:
            raise ValueError("\n".join(faults))
        further = any(isinstance(stressor, FurtherEdits) for stressor in self.stressors)
        for index, choice in enumerate(self.editors):
            if further and not CATALOGUE[choice.name].augmentable:
                raise ValueError(f"editors.{index}.name: '{choice.name}' makes no edits, so no further ones")
        return self

    def editor_of(self, model: TunedModel) -> EditorChoice:
        """The editor that made the edits of a model that was tuned elsewhere."""
        return next(choice for choice in self.editors if model.editor in (None, choice.key))

    def stress_configurations(self) -> list[StressConfiguration]:
        """Every editor × paraphrases × stressor, in the request's order."""
        return [
            StressConfiguration(editor=editor.key, paraphrases=count, stressor=key_of(stressor))
            for editor in self.editors
            for count in editor.paraphrases
            for stressor in self.stressors
        ]

    def configurations(self) -> list[Configuration]:
        """Every editor × paraphrases × recipe × freeze, in the request's order; then those `tuned`."""
        return self._recipe_configurations() + [
            Configuration(
                editor=self.editor_of(model).key,
                paraphrases=self.editor_of(model).paraphrases[0],
                recipe=model.name,
                freeze=Freeze.NONE,
            )
            for model in self.tuned
        ]

    def _recipe_configurations(self) -> list[Configuration]:
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
