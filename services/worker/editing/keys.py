"""Keys (inputs of an MLP down-projection) and hidden states at the subject's last token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.editing.token_positions import SubjectSequence
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Advance, uncounted
from services.worker.language_models.taps import Tap, read_taps


def keys_at_subject(
    language_model: LanguageModel,
    sequences: Sequence[Sequence[SubjectSequence]],
    weights: Sequence[float],
    layer: int,
    batches: Batches,
    advance: Advance = uncounted,
) -> Tensor:
    """Each edit's key at a layer: the weighted mean, over its contexts, of the down-projection's input.

    sequences: per edit, one per context; weights: one per context. advance: called with the sequences
    read since the last call. Returns (edits, d_ff) float32.
    Source: MEMIT, eq. 19; the weights are `Contexts.weights`, or all alike for ROME.
    """
    tap = Tap(language_model.anatomy.mlp_down_projections[layer], "input")
    rows = [sequence for contexts in sequences for sequence in contexts]
    keys = read_at_subject(language_model, rows, tap, batches, advance)
    per_context = keys.view(len(sequences), len(weights), -1)  # (edits, contexts, d_ff)
    return torch.einsum("ecd,c->ed", per_context, torch.tensor(weights, device=keys.device))


def block_outputs_at_subject(
    language_model: LanguageModel,
    sequences: Sequence[SubjectSequence],
    layer: int,
    batches: Batches,
    advance: Advance = uncounted,
) -> Tensor:
    """Hidden states that a block puts out at the subject's last token: (sequences, hidden) float32."""
    tap = Tap(language_model.anatomy.blocks[layer], "output")
    return read_at_subject(language_model, sequences, tap, batches, advance)


def read_at_subject(
    language_model: LanguageModel,
    sequences: Sequence[SubjectSequence],
    tap: Tap,
    batches: Batches,
    advance: Advance,
) -> Tensor:
    """What a tap reads at the subject's last token of each sequence: (sequences, width) float32."""
    cut = [sequence.up_to_subject() for sequence in sequences]
    found: list[Tensor | None] = [None] * len(cut)

    def read(chosen: Sequence[int]) -> None:
        batch = language_model.batch([cut[index].ids for index in chosen])
        columns = batch.columns(torch.tensor([cut[index].subject_position for index in chosen]))
        values = read_taps(language_model.model, batch, [tap])[tap]  # (batch, sequence, width)
        for index, value in zip(chosen, values[torch.arange(len(chosen)), columns].float(), strict=True):
            found[index] = value
        advance(len(chosen))

    batches.run("prompts were read", [len(sequence.ids) for sequence in cut], read)
    return torch.stack([value for value in found if value is not None])
