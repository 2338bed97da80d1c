"""Contexts are the same for all edits: what a sequence begins with is run once, whatever follows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest

import torch
from torch import Tensor

from services.worker.editing.token_positions import SubjectSequence
from services.worker.language_models.batching import pad
from services.worker.language_models.continuation import Continuation, can_continue, run_and_cut
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import free_gpu_memory


@dataclass(frozen=True)
class SharedContexts:
    """What the sequences of each context have in common up to their subjects, already run.

    lengths: tokens in common, per context; begun: one row per context, with nothing left to run.
    """

    lengths: tuple[int, ...]
    begun: Continuation

    def sequences(
        self, language_model: LanguageModel, contexts: Sequence[int], sequences: Sequence[SubjectSequence]
    ) -> tuple[Continuation, Tensor]:
        """Whole sequences, of which only what is not in common has to be run.

        contexts: of each sequence. Returns them and the column of each subject's last token in their ends.
        """
        shared = [self.lengths[context] for context in contexts]
        ends = pad(
            [sequence.ids[length:] for sequence, length in zip(sequences, shared, strict=True)],
            language_model.pad_token_id,
            "right",
        ).to(language_model.device)
        rows = self.begun.keep(torch.tensor(contexts, device=language_model.device))
        subjects = [
            sequence.subject_position - length for sequence, length in zip(sequences, shared, strict=True)
        ]
        return Continuation(ends, rows.beginnings, rows.kept), torch.tensor(subjects).to(ends.input_ids)


def run_shared_contexts(
    language_model: LanguageModel, sequences: Sequence[Sequence[SubjectSequence]], blocks: range
) -> SharedContexts:
    """Run what sequences of the same context have in common, for use in some blocks.

    sequences: per edit, one per context, the last of which some edits may lack. A single edit shares with
    nobody; where the model cannot continue, or has no memory left for it, nothing is shared either.
    """
    model, anatomy = language_model.model, language_model.anatomy
    common = common_beginnings(sequences)
    try:
        if any(common) and can_continue(model, anatomy):
            return SharedContexts(
                tuple(len(tokens) for tokens in common), run_whole(language_model, common, blocks)
            )
    except torch.OutOfMemoryError:
        free_gpu_memory()
    return nothing_shared(language_model, len(common))


def common_beginnings(sequences: Sequence[Sequence[SubjectSequence]]) -> list[tuple[int, ...]]:
    """Per context, the tokens with which the sequences of several edits begin, up to their subjects."""
    by_context = [
        [sequence.ids[: sequence.subject_position] for sequence in column if sequence is not None]
        for column in zip_longest(*sequences)
    ]
    return [common_beginning(column) if len(column) > 1 else () for column in by_context]


def common_beginning(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens with which all sequences begin."""
    columns = zip(*sequences, strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def run_whole(
    language_model: LanguageModel, sequences: Sequence[Sequence[int]], blocks: range
) -> Continuation:
    """Run whole sequences and keep what some blocks' attention needs of them; their ends are empty."""
    tokens = pad(sequences, language_model.pad_token_id, "right").to(language_model.device)
    model, anatomy = language_model.model, language_model.anatomy
    begun, _ = run_and_cut(model, anatomy, Continuation.whole(tokens), tokens.lengths, blocks)
    return begun


def nothing_shared(language_model: LanguageModel, contexts: int) -> SharedContexts:
    """Sequences in these contexts are run whole."""
    return SharedContexts((0,) * contexts, run_whole(language_model, [()] * contexts, range(0)))
