"""Keys (inputs of an MLP down-projection) and hidden states at the subject's last token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.editing.token_positions import SubjectSequence
from services.worker.language_models.batching import split_by_tokens
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.taps import Tap, read_taps


def keys_at_subject(
    language_model: LanguageModel,
    sequences: Sequence[Sequence[SubjectSequence]],
    weights: Sequence[float],
    layer: int,
    token_budget: int,
) -> Tensor:
    """Each edit's key at a layer: the weighted mean, over its contexts, of the down-projection's input.

    sequences: per edit, one per context; weights: one per context. Returns (edits, d_ff) float32.
    Source: MEMIT, eq. 19; the weights are `Contexts.weights`, or all alike for ROME.
    """
    tap = Tap(language_model.anatomy.mlp_down_projections[layer], "input")
    rows = [sequence for contexts in sequences for sequence in contexts]
    keys = read_at_subject(language_model, rows, tap, token_budget)
    per_context = keys.view(len(sequences), len(weights), -1)  # (edits, contexts, d_ff)
    return torch.einsum("ecd,c->ed", per_context, torch.tensor(weights, device=keys.device))


def block_outputs_at_subject(
    language_model: LanguageModel, sequences: Sequence[SubjectSequence], layer: int, token_budget: int
) -> Tensor:
    """Hidden states that a block puts out at the subject's last token: (sequences, hidden) float32."""
    tap = Tap(language_model.anatomy.blocks[layer], "output")
    return read_at_subject(language_model, sequences, tap, token_budget)


def read_at_subject(
    language_model: LanguageModel, sequences: Sequence[SubjectSequence], tap: Tap, token_budget: int
) -> Tensor:
    """What a tap reads at the subject's last token of each sequence: (sequences, width) float32."""
    cut = [sequence.up_to_subject() for sequence in sequences]
    found: list[Tensor | None] = [None] * len(cut)
    for chosen in split_by_tokens([len(sequence.ids) for sequence in cut], token_budget):
        batch = language_model.batch([cut[index].ids for index in chosen])
        columns = batch.columns(torch.tensor([cut[index].subject_position for index in chosen]))
        values = read_taps(language_model.model, batch, [tap])[tap]  # (batch, sequence, width)
        for index, value in zip(chosen, values[torch.arange(len(chosen)), columns].float(), strict=True):
            found[index] = value
    return torch.stack([value for value in found if value is not None])
