"""WISE: edits in a side memory beside one late MLP (Wang et al. 2024, arXiv 2405.14768).

An edit is the tokens after which its target is predicted, in its prompt alone and after texts of the model's
own. All that must stay as it is, is represented by texts that the model writes itself; the publication takes
questions of a data set.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.editing.activation_margins import distances
from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.shards import random_masks, ties_merged
from services.worker.editing.side_memory import Projection, SideMemory
from services.worker.editing.side_memory_learning import EditRow, Learning
from services.worker.editing.target_rows import start_rows, target_rows
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Advance, WorkDone, uncounted, untold
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.sampling import sample_continuations, start_of_text
from services.worker.language_models.taps import Tap
from shared.editors import WiseHyperparameters
from shared.edits import Edit

SEED = 0  # masks and irrelevant texts are part of the method, not of a trial's randomness


class Wise:
    """The editor `wise`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: WiseHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        batches = run.batches(language_model)
        [layer] = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        of_edits = target_rows(language_model, edits, materials.contexts)
        bare = [in_contexts[0] for in_contexts in of_edits]
        rows = [EditRow(edit, row) for edit, in_contexts in enumerate(of_edits) for row in in_contexts]
        work = WorkDone(run.progress, whole=len(rows) * hyperparameters.n_iter + len(bare))
        main = Projection.of_block(language_model, layer)
        irrelevant = irrelevant_activations(language_model, hyperparameters, layer, batches)
        learning = Learning(language_model, layer, main, irrelevant, hyperparameters, batches, work)
        per_shard = hyperparameters.edits_per_shard
        shards = [
            [row for row in rows if first <= row.edit < first + per_shard]
            for first in range(0, len(edits), per_shard)
        ]
        masks = random_masks(main.weight.shape, len(shards), hyperparameters.mask_ratio, SEED)
        learned = [
            learning.learn(shard, mask.to(language_model.device))
            for shard, mask in zip(shards, masks, strict=True)
        ]
        change = ties_merged([found for found, _ in learned], hyperparameters.density)
        weight = (main.weight.float() + change).to(main.weight.dtype)
        activations = target_activations(language_model, bare, layer, batches, work.advance)
        differences = distances(weight.float() - main.weight.float(), activations)
        side = Projection(weight, main.bias).to(torch.device("cpu"))
        threshold = routing_threshold(differences, hyperparameters)
        return EditOutcome(
            modification=SideMemory(layer, side, threshold, language_model.revision),
            edited_layers=(layer,),
            losses=(tuple(loss for _, losses in learned for loss in losses),),
            shared_loss=True,
        )


def routing_threshold(differences: Tensor, hyperparameters: WiseHyperparameters) -> float:
    """From how far apart the memories must lie for the side memory to be used (WISE, eq. 4).

    differences: Δ_act where targets are predicted, (target tokens,). The publication takes a share of the
    least; here it is no less than α, so that an edit that failed does not take everything along with it.
    """
    return max(hyperparameters.act_ratio * differences.min().item(), hyperparameters.alpha)


def irrelevant_activations(
    language_model: LanguageModel, hyperparameters: WiseHyperparameters, layer: int, batches: Batches
) -> Tensor:
    """What the down-projection takes at the tokens of texts by the model: (tokens, d_ff) float32."""
    start = start_of_text(language_model)
    texts = sample_continuations(
        language_model,
        [start] * hyperparameters.irrelevant_count,
        hyperparameters.irrelevant_length,
        torch.Generator().manual_seed(SEED),
        WorkDone(untold, whole=1),
        batches.memory,
    )
    # Every token of a text is one after which the next is predicted.
    rows = [PromptedTarget(tuple(start), tuple(text)) for text in texts.tolist()]
    activations = target_activations(language_model, rows, layer, batches, uncounted)
    return activations[activations.isfinite().all(dim=-1)]


def target_activations(
    language_model: LanguageModel,
    rows: Sequence[PromptedTarget],
    layer: int,
    batches: Batches,
    advance: Advance,
) -> Tensor:
    """What the down-projection takes where targets are predicted: (target tokens, d_ff) float32, in order.

    advance: called with the rows read since the last call.
    """
    tap = Tap(language_model.anatomy.mlp_down_projections[layer], "input")
    found: dict[int, Tensor] = {}

    def read(chosen: Sequence[int]) -> None:
        batch, values = start_rows(language_model, [rows[index] for index in chosen], layer, [tap])
        sizes = [len(row.target) for row in batch.rows]
        found.update(zip(chosen, torch.split(values[tap][batch.predicting()].float(), sizes), strict=True))
        advance(len(chosen))

    batches.run("prompts were read", [len(row.inputs) for row in rows], read)
    return torch.cat([found[index] for index in range(len(rows))])
