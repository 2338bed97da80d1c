"""The sequences over which target vectors are optimised, as one batch that edits leave when they are done."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from services.worker.editing.places import Place
from services.worker.editing.shared_contexts import SharedContexts
from services.worker.editing.target_requests import TargetRequest
from services.worker.editing.token_positions import SubjectSequence
from services.worker.language_models.continuation import (
    Continuation,
    can_continue,
    positions_from,
    run_and_cut,
    taken,
)
from services.worker.language_models.loading import VALUES_PER_BLOCK, LanguageModel
from services.worker.language_models.taps import Tap, blocks_return_tuples, passes_straight_through

# A token before the subject leaves a key and a value in each block, of some twenty activations (see
# `LanguageModel.token_budget`).
VALUES_KEPT = 2 / VALUES_PER_BLOCK


@dataclass(frozen=True)
class Route:
    """How the model is run with δ at a place, found by inspection.

    modules: to whose outputs δ is added; replayed: the last block that need not run, -1 where all must;
    continues: whether tokens before the subject need not run either; in_tuple: see `blocks_return_tuples`.
    """

    modules: tuple[str, ...]
    replayed: int
    continues: bool
    in_tuple: bool

    def tokens_to_run(self, sequence: SubjectSequence) -> int:
        """What a sequence takes in memory at each step, in tokens kept for a backward pass."""
        if not self.continues:
            return len(sequence.ids)
        kept = math.ceil(VALUES_KEPT * sequence.subject_position)
        return len(sequence.ids) - sequence.subject_position + kept


def shortest_route(language_model: LanguageModel, place: Place) -> Route:
    """The route with the least to run, on which δ has the same effect as at the place."""
    model, anatomy = language_model.model, language_model.anatomy
    modules, last = place.modules, place.layer - 1
    if len(modules) == 1 and passes_straight_through(model, anatomy, place.layer, modules[0]):
        modules, last = (anatomy.blocks[place.layer],), place.layer
    return Route(modules, last, can_continue(model, anatomy), blocks_return_tuples(model, anatomy))


@dataclass(frozen=True)
class RunningEdits:
    """The sequences of the edits that are not done, in one batch, edit by edit.

    indices: of the edits. continuation: the sequences, cut before the subject's last token where the route
    allows; subjects: its column in the ends, (rows,) int64. outputs: of the last replayed block, unedited,
    (rows, width of the ends, hidden), None where none is replayed; initial: v0, the unedited outputs of the
    place's modules at the subject of each bare prompt, (edits, modules, hidden) float32.
    """

    route: Route
    indices: list[int]
    requests: list[TargetRequest]
    continuation: Continuation
    subjects: Tensor
    outputs: Tensor | None
    initial: Tensor

    def keep(self, places: Sequence[int]) -> "RunningEdits":
        """Only the edits at `places`."""
        firsts, counts = self.first_rows, self.row_counts
        chosen = [firsts[place] + row for place in places for row in range(counts[place])]
        rows = torch.tensor(chosen, device=self.subjects.device)
        return RunningEdits(
            self.route,
            [self.indices[place] for place in places],
            [self.requests[place] for place in places],
            self.continuation.keep(rows),
            self.subjects[rows],
            None if self.outputs is None else self.outputs[rows],
            self.initial[list(places)],
        )

    @cached_property
    def row_counts(self) -> list[int]:
        """Rows of each edit."""
        return [len(request.sequences()) for request in self.requests]

    @cached_property
    def first_rows(self) -> list[int]:
        """Row of each edit's bare prompt."""
        return first_rows(self.requests)

    @cached_property
    def subject_tokens(self) -> Tensor:
        """The subjects' last tokens, counted through the whole batch, (rows,) int64."""
        width = self.continuation.ends.input_ids.shape[1]
        return torch.arange(len(self.subjects), device=self.subjects.device) * width + self.subjects

    @cached_property
    def reads(self) -> tuple[Tensor, Tensor]:
        """(rows, columns) of the hidden states that predict: every edit's targets, then every essence."""
        subjects, firsts = self.subjects.tolist(), self.first_rows
        reads: list[tuple[int, int]] = []
        for request, first in zip(self.requests, firsts, strict=True):
            for row, prompt in enumerate(request.prompts, start=first):
                predicting = subjects[row] + len(prompt.ids) - 1 - prompt.subject_position
                reads += [(row, predicting + place) for place in range(len(request.target_ids))]
        for request, first in zip(self.requests, firsts, strict=True):
            row = first + request.essence_row
            reads.append((row, subjects[row]))
        rows, columns = torch.tensor(reads, device=self.subjects.device).T
        return rows, columns

    @cached_property
    def wanted_ids(self) -> Tensor:
        """What shall be predicted at each read of a target: (target reads,) int64."""
        ids = [
            target_id
            for request in self.requests
            for _ in request.prompts
            for target_id in request.target_ids
        ]
        return torch.tensor(ids, device=self.subjects.device)

    @cached_property
    def target_reads(self) -> Tensor:
        """How many reads of targets each edit has: (edits,) int64."""
        counts = [len(request.prompts) * len(request.target_ids) for request in self.requests]
        return torch.tensor(counts, device=self.subjects.device)


def start_running(
    language_model: LanguageModel,
    indices: list[int],
    requests: list[TargetRequest],
    place: Place,
    route: Route,
    shared: SharedContexts,
) -> RunningEdits:
    """Run all sequences of some edits once, and keep what does not change with δ.

    shared: the contexts of `TargetRequest.sequences`.
    """
    model, anatomy = language_model.model, language_model.anatomy
    rows = [row for request in requests for row in enumerate(request.sequences())]
    contexts, sequences = zip(*rows, strict=True)
    whole, subjects = shared.sequences(language_model, contexts, sequences)
    cuts = subjects if route.continues else torch.zeros_like(subjects)
    taps = [Tap(module, "output") for module in place.modules]
    replayed = [Tap(anatomy.blocks[route.replayed], "output")] if route.replayed >= 0 else []
    blocks = range(route.replayed + 1, len(anatomy.blocks))
    continuation, read = run_and_cut(model, anatomy, whole, cuts, blocks, [*taps, *replayed])
    ends = positions_from(cuts, continuation.ends.input_ids.shape[1])
    bare = torch.tensor(first_rows(requests), device=subjects.device)
    return RunningEdits(
        route,
        indices,
        requests,
        continuation,
        subjects=subjects - cuts,
        outputs=taken(read[replayed[0]], ends) if replayed else None,
        initial=torch.stack([read[tap][bare, subjects[bare]] for tap in taps], dim=1).float(),
    )


def first_rows(requests: Sequence[TargetRequest]) -> list[int]:
    """Where each edit's sequences begin when all are put one after another."""
    counts = [len(request.sequences()) for request in requests]
    return [0, *accumulate(counts)][:-1]
