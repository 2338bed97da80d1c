"""What the catalogue says of an editor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.editors.hyperparameters import Hyperparameters
from shared.preparations import Preparation

ALMANAC = "builtin:almanac"  # its defaults were found by trying a few; its model card has the outcome


@dataclass(frozen=True)
class EditorDescription:
    """What the catalogue says of an editor.

    family_defaults: by the `model_type` of a model's configuration, model_defaults: by model reference;
    both stand in for the editor's own defaults, the latter first. preparation: what must be made for it,
    in a step of its own, before it can edit. augmentable: whether it can make edits of paraphrases too.
    in_weights: whether its edits are changed weights and nothing else, so that there is an edited model to
    be saved. needs_mlps: whether it reads or writes a block's one MLP, which a mixture of experts lacks.
    """

    name: str
    title: str
    paper: str
    hyperparameters: type[Hyperparameters]
    summary: str
    family_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preparation: Preparation | None = None
    augmentable: bool = True
    in_weights: bool = True
    needs_mlps: bool = True

    def settle(
        self, model_reference: str, given: Mapping[str, Any], model_type: str | None = None
    ) -> Hyperparameters:
        """What an audit of this model runs with: what was given, else the default of the model, of its
        family (where `model_type` is known), of the editor.

        Raises pydantic's ValidationError.
        """
        family = self.family_defaults.get(model_type, {}) if model_type else {}
        by_field = self.hyperparameters.model_validate(given).model_dump(exclude_unset=True)  # no aliases
        return self.hyperparameters.model_validate(
            {**family, **self.model_defaults.get(model_reference, {}), **by_field}
        )
