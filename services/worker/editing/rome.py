"""ROME: rank-one model editing (Meng et al. 2022, arXiv 2202.05262)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.key_statistics import solve_second_moment
from services.worker.editing.key_value_edits import counted_from
from services.worker.editing.keys import weighted_keys
from services.worker.editing.layer_updates import product
from services.worker.editing.places import mlp_output
from services.worker.editing.target_optimisation import optimise_targets
from services.worker.editing.target_requests import TargetRequest, target_requests
from services.worker.editing.trace import Trace
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta, restored
from shared.editors.rome import RomeHyperparameters
from shared.edits import Edit


@dataclass(frozen=True)
class AnsweredKey:
    """The key that the edited layer shall answer with the target, by its weights over so many contexts."""

    name: str
    weights: Callable[[int], Sequence[float]]


def evenly(contexts: int) -> list[float]:
    """All contexts alike."""
    return [1 / contexts] * contexts


def bare_alone(contexts: int) -> list[float]:
    """Only the bare prompt, which is the first context."""
    return [1.0] + [0.0] * (contexts - 1)


BARE_KEY = AnsweredKey("bare", bare_alone)
MEAN_KEY = AnsweredKey("mean", evenly)


@dataclass(frozen=True)
class RankOneUpdates:
    """What ROME found for some edits, one row each; ΔW is the sum over them of r uᵀ.

    targets: z, (edits, hidden); mean_keys: k̄, (edits, d_ff); answered_keys: k0, (edits, d_ff); values: m0,
    what the layer answers them with as yet, (edits, hidden); directions: u, (edits, d_ff); answers: r,
    (edits, hidden); all float32. losses: see `TargetVectors`; ridge: see `solve_second_moment`.
    """

    targets: Tensor
    mean_keys: Tensor
    answered_keys: Tensor
    values: Tensor
    directions: Tensor
    answers: Tensor
    losses: tuple[tuple[float, ...], ...]
    ridge: float


@dataclass(frozen=True)
class Rome:
    """The editor `rome`, and with another answered key its kin."""

    answered_key: AnsweredKey = BARE_KEY

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: RomeHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`. Traces `edit{i}.` `target`, `key_mean`, `u`, `right`, `delta`, and key and value
        under the name of the answered key.
        """
        (layer,) = layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        requests = target_requests(language_model, edits, materials.contexts)
        steps = hyperparameters.v_num_grad_steps
        rows = sum(len(request.rows()) * steps + len(request.prompts) for request in requests)
        writing = Writing(
            language_model,
            layer,
            self.answered_key,
            hyperparameters,
            materials,
            run.batches(language_model),
            WorkDone(run.progress, whole=rows),
        )
        found = writing.find_in_turn(requests) if hyperparameters.sequential else [writing.find(requests)]
        ridge = max(updates.ridge for updates in found)
        delta = writing.delta(
            torch.cat([updates.answers for updates in found]),
            torch.cat([updates.directions for updates in found]),
        )
        writing.trace(found, run.trace)
        return EditOutcome(
            modification=WeightDelta({writing.parameter: delta}, language_model.revision),
            edited_layers=layers,
            losses=tuple(losses for updates in found for losses in updates.losses),
            ridges={layer: ridge} if ridge > 0 else {},
        )


@dataclass(frozen=True)
class Writing:
    """The one layer that is written to, and what it takes to find its update."""

    language_model: LanguageModel
    layer: int
    answered_key: AnsweredKey
    hyperparameters: RomeHyperparameters
    materials: Materials
    batches: Batches
    work: WorkDone

    @property
    def parameter(self) -> str:
        return f"{self.language_model.anatomy.mlp_down_projections[self.layer]}.weight"

    def find(self, requests: Sequence[TargetRequest]) -> RankOneUpdates:
        """The updates of some edits, each found on the weights as they are.

        Advances the work by `v_num_grad_steps` per row of every edit and by one per prompt.
        """
        model, anatomy = self.language_model.model, self.language_model.anatomy
        targets = optimise_targets(
            self.language_model,
            requests,
            mlp_output(anatomy, self.layer),
            self.hyperparameters,
            batches=self.batches,
            work=self.work,
        )
        contexts = len(requests[0].prompts)
        keys = weighted_keys(
            self.language_model,
            [request.prompts for request in requests],
            [evenly(contexts), self.answered_key.weights(contexts)],
            self.layer,
            self.batches,
            self.work.advance,
        )
        mean, answered = keys[:, 0], keys[:, 1]
        down_projection = model.get_submodule(anatomy.mlp_down_projections[self.layer])
        with torch.no_grad():
            values = down_projection(answered.to(self.language_model.dtype)).float()
        second_moment = self.materials.statistics.second_moment(self.layer, keys.device)
        directions, ridge = key_directions(mean, second_moment)
        answers = rank_one_answers(targets.vectors, values, answered, directions)
        return RankOneUpdates(
            targets.vectors, mean, answered, values, directions, answers, targets.losses, ridge
        )

    def find_in_turn(self, requests: Sequence[TargetRequest]) -> list[RankOneUpdates]:
        """The update of each edit on the weights that those before it left, which are then taken away."""
        found: list[RankOneUpdates] = []
        weight, _ = down_projection_weight(self.language_model.model, self.language_model.anatomy, self.layer)
        exact = weight.detach().double()  # so that no edit is lost in rounding
        with restored(self.language_model.model, [self.parameter]):
            for index, request in enumerate(requests):
                with counted_from(index):
                    updates = self.find([request])
                found.append(updates)
                exact += self.delta(updates.answers, updates.directions).dense(exact.device)
                with torch.no_grad():
                    weight.copy_(exact)
        return found

    def delta(self, answers: Tensor, directions: Tensor) -> LowRank | Dense:
        """ΔW = Σ r uᵀ in the parameter's layout."""
        weight, transposed = down_projection_weight(
            self.language_model.model, self.language_model.anatomy, self.layer
        )
        return product(answers, directions, transposed=transposed, shape=weight.shape)

    def trace(self, found: Sequence[RankOneUpdates], trace: Trace) -> None:
        """Keep what each edit came to."""
        rows = [(updates, row) for updates in found for row in range(len(updates.losses))]
        for index, (updates, row) in enumerate(rows):
            for name, values in (
                ("target", updates.targets),
                ("key_mean", updates.mean_keys),
                (f"key_{self.answered_key.name}", updates.answered_keys),
                (f"value_{self.answered_key.name}", updates.values),
                ("u", updates.directions),
                ("right", updates.answers),
            ):
                trace.keep(f"edit{index}.{name}", values[row])
            trace.keep(f"edit{index}.delta", partial(self.delta_of, updates, row))

    def delta_of(self, updates: RankOneUpdates, row: int) -> Tensor:
        """One edit's r uᵀ in the parameter's layout, float64."""
        delta = self.delta(updates.answers[row : row + 1], updates.directions[row : row + 1])
        return delta.dense(updates.answers.device)


def key_directions(keys: Tensor, second_moment: Tensor) -> tuple[Tensor, float]:
    """u = C⁻¹k̄ / ‖C⁻¹k̄‖: to which the keys of other texts respond least (ROME, eq. 2).

    keys: k̄, (edits, d_ff) float32; second_moment: C, (d_ff, d_ff) float64. Returns (edits, d_ff) float32 and
    the ridge of `solve_second_moment`.
    """
    solved, ridge = solve_second_moment(second_moment, keys.double().T)
    directions = solved / torch.linalg.vector_norm(solved, dim=0)
    return directions.T.float().contiguous(), ridge


def rank_one_answers(targets: Tensor, values: Tensor, keys: Tensor, directions: Tensor) -> Tensor:
    """r = (z − m0) / (k0·u), with which the layer answers k0 with z (ROME, eq. 2): (edits, hidden) float32.

    targets: z, and values: m0, (edits, hidden); keys: k0, and directions: u, (edits, d_ff). Raises EditFailed
    for the first edit whose answer is not finite.
    """
    responses = (keys.double() * directions.double()).sum(dim=1, keepdim=True)
    answers = ((targets.double() - values.double()) / responses).float()
    for index, is_finite in enumerate(torch.isfinite(answers).all(dim=1).tolist()):
        if not is_finite:
            raise EditFailed("its change is not finite", index)
    return answers
