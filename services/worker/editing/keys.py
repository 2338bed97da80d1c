"""Keys (inputs of an MLP down-projection) and hidden states at the subject's last token."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from services.worker.editing.shared_contexts import SharedContexts, nothing_shared, run_shared_contexts
from services.worker.editing.token_positions import SubjectSequence
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Advance, uncounted
from services.worker.language_models.taps import Tap, read_taps

# More tokens at once are read no faster: what a block computes for them leaves the processor's caches.
ENOUGH_TOKENS = 1_024


def keys_at_subject(
    language_model: LanguageModel,
    sequences: Sequence[Sequence[SubjectSequence]],
    weights: Sequence[float],
    layer: int,
    batches: Batches,
    advance: Advance = uncounted,
) -> Tensor:
    """Each edit's key at a layer: the weighted mean, over its contexts, of the down-projection's input.

    sequences: per edit, one per context; weights: one per context, `Contexts.weights`. advance: called with
    the sequences read since the last call. Returns (edits, d_ff) float32. Source: MEMIT, eq. 19.
    """
    return weighted_keys(language_model, sequences, [weights], layer, batches, advance)[:, 0]


def weighted_keys(
    language_model: LanguageModel,
    sequences: Sequence[Sequence[SubjectSequence]],
    weightings: Sequence[Sequence[float]],
    layer: int,
    batches: Batches,
    advance: Advance = uncounted,
) -> Tensor:
    """Several weighted sums, over contexts, of each edit's keys at a layer.

    weightings: each one weight per context; sequences, advance: see `keys_at_subject`. Returns (edits,
    weightings, d_ff) float32, and never holds the keys of all contexts.
    """
    shared = run_shared_contexts(language_model, sequences, range(layer + 1))
    edits = [edit for edit, of_edit in enumerate(sequences) for _ in of_edit]
    rows = [row for of_edit in sequences for row in enumerate(of_edit)]
    per_context = torch.tensor(weightings, device=language_model.device).T  # (contexts, weightings)
    weight, transposed = down_projection_weight(language_model.model, language_model.anatomy, layer)
    d_ff = weight.shape[0 if transposed else 1]
    sums = torch.zeros(len(sequences), len(weightings), d_ff, device=language_model.device)

    def add(chosen: Sequence[int], values: Tensor) -> None:
        order = sorted(range(len(chosen)), key=lambda place: edits[chosen[place]])
        present = Counter(edits[chosen[place]] for place in order)  # by edit, its rows
        weights = per_context[[rows[chosen[place]][0] for place in order]]  # (rows, weightings)
        weighted = values[order][:, None] * weights[..., None]
        counts = torch.tensor(list(present.values()), device=values.device)
        sums[list(present)] += torch.segment_reduce(weighted, "sum", lengths=counts)

    tap = Tap(language_model.anatomy.mlp_down_projections[layer], "input")
    read_rows(language_model, shared, rows, tap, batches, add, advance)
    return sums


def read_at_subject(
    language_model: LanguageModel,
    sequences: Sequence[SubjectSequence],
    tap: Tap,
    batches: Batches,
    advance: Advance,
) -> Tensor:
    """What a tap reads at the subject's last token of each sequence: (sequences, width) float32."""
    found: list[Tensor | None] = [None] * len(sequences)

    def keep(chosen: Sequence[int], values: Tensor) -> None:
        for index, value in zip(chosen, values, strict=True):
            found[index] = value

    rows = [(0, sequence) for sequence in sequences]
    read_rows(language_model, nothing_shared(language_model, 1), rows, tap, batches, keep, advance)
    return torch.stack([value for value in found if value is not None])


def read_rows(
    language_model: LanguageModel,
    shared: SharedContexts,
    rows: Sequence[tuple[int, SubjectSequence]],
    tap: Tap,
    batches: Batches,
    take: Callable[[Sequence[int], Tensor], None],
    advance: Advance,
) -> None:
    """Hand over what a tap reads at the subject's last token of sequences that may have been run in part.

    rows: context and sequence. take: called with the indices of some rows and their values, (rows, width)
    float32; must leave nothing behind when it runs out of memory.
    """
    cut = [(context, sequence.up_to_subject()) for context, sequence in rows]

    def read(chosen: Sequence[int]) -> None:
        contexts, sequences = zip(*(cut[index] for index in chosen), strict=True)
        whole, subjects = shared.sequences(language_model, contexts, sequences)
        arguments = whole.forward_arguments(language_model.model)
        values = read_taps(language_model.model, whole.ends, [tap], **arguments)[tap]
        take(chosen, values[torch.arange(len(chosen)), subjects].float())
        advance(len(chosen))

    lengths = [len(sequence.ids) - shared.lengths[context] for context, sequence in cut]
    batches.at_most(ENOUGH_TOKENS).run("prompts were read", lengths, read)
