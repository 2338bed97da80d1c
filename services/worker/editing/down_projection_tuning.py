"""Fine-tuning MLP down-projections, weight and bias, on the edits: FT, and what FT-L and FT-M are made of."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.fine_tuning import (
    Constraint,
    Loss,
    descend,
    edit_cases,
    loss_at_last_token,
    unconstrained,
)
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import Dense, WeightDelta, restored
from shared.editors import FineTuningHyperparameters
from shared.edits import Edit

H = TypeVar("H", bound=FineTuningHyperparameters)


class DownProjectionTuning(Generic[H]):
    """Fine-tunes the MLP down-projections of the edited layers.

    With the loss at the prompt's last token the editor `ft`, with the one at every target token `ft_m`.
    """

    def __init__(self, loss: Loss = loss_at_last_token) -> None:
        self.loss = loss

    def constraint(self, _hyperparameters: H) -> Constraint:
        """What holds the weights back: nothing, unless an editor says otherwise."""
        return unconstrained

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: H,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        model = language_model.model
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        cases = edit_cases(language_model, edits)
        names = tuned_parameters(language_model, layers)
        with restored(model, names):
            parameters = [model.get_parameter(name) for name in names]
            originals = [parameter.detach().clone() for parameter in parameters]
            losses = descend(
                language_model,
                cases,
                parameters,
                hyperparameters,
                self.loss,
                run,
                self.constraint(hyperparameters),
            )
            deltas = {
                name: Dense.between(original, parameter)
                for name, original, parameter in zip(names, originals, parameters, strict=True)
            }
        for name, delta in deltas.items():
            run.trace.keep(name, delta.values)
        return EditOutcome(
            modification=WeightDelta(deltas, language_model.revision),
            edited_layers=layers,
            losses=(losses,),
            shared_loss=True,
        )


def tuned_parameters(language_model: LanguageModel, layers: Sequence[int]) -> list[str]:
    """Names of the weight and, where there is one, the bias of each layer's MLP down-projection."""
    paths = [language_model.anatomy.mlp_down_projections[layer] for layer in layers]
    return [
        f"{path}.{name}"
        for path in paths
        for name, _ in language_model.model.get_submodule(path).named_parameters(recurse=False)
    ]
