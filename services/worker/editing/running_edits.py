"""The sequences over which target vectors are optimised, as one batch that edits leave when they are done."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.target_requests import TargetRequest
from services.worker.language_models.batching import TokenBatch
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.taps import Tap, read_taps


@dataclass(frozen=True)
class RunningEdits:
    """The sequences of the edits that are not done, in one batch, edit by edit.

    layer: the block whose outputs are given; in_tuple: see `blocks_return_tuples`. indices: of the edits.
    tokens: (rows, sequence); outputs: unedited block outputs, (rows, sequence, hidden); subjects: column of
    the subject's last token per row. Per edit: rows_per_edit rows, of which the last is the essence.
    """

    layer: int
    in_tuple: bool
    indices: list[int]
    requests: list[TargetRequest]
    tokens: TokenBatch
    outputs: Tensor
    subjects: Tensor

    @property
    def rows_per_edit(self) -> int:
        return len(self.tokens.input_ids) // len(self.requests)

    def keep(self, places: Sequence[int]) -> "RunningEdits":
        """Only the edits at `places`."""
        rows = torch.tensor(
            [place * self.rows_per_edit + row for place in places for row in range(self.rows_per_edit)],
            device=self.subjects.device,
        )
        return RunningEdits(
            self.layer,
            self.in_tuple,
            [self.indices[place] for place in places],
            [self.requests[place] for place in places],
            TokenBatch(self.tokens.input_ids[rows], self.tokens.attention_mask[rows]),
            self.outputs[rows],
            self.subjects[rows],
        )

    def reads(self) -> tuple[Tensor, Tensor]:
        """(rows, columns) of the hidden states that predict: every edit's targets, then every essence."""
        starts = self.tokens.starts.tolist()
        rows: list[int] = []
        columns: list[int] = []
        for place, request in enumerate(self.requests):
            for context, prompt in enumerate(request.prompts):
                row = place * self.rows_per_edit + context
                first = starts[row] + len(prompt.ids) - 1
                rows += [row] * len(request.target_ids)
                columns += range(first, first + len(request.target_ids))
        essences = torch.arange(len(self.requests), device=self.subjects.device) * self.rows_per_edit
        essences = essences + self.rows_per_edit - 1
        read_rows = torch.cat([torch.tensor(rows).to(essences), essences])
        return read_rows, torch.cat([torch.tensor(columns).to(essences), self.subjects[essences]])

    def wanted_ids(self) -> Tensor:
        """What shall be predicted at each read of a target: (target reads,) int64."""
        ids = [
            target_id
            for request in self.requests
            for _ in request.prompts
            for target_id in request.target_ids
        ]
        return torch.tensor(ids, device=self.subjects.device)

    def initial_vectors(self) -> Tensor:
        """v0: the unedited output at the subject of each bare prompt, (edits, hidden) float32."""
        rows = torch.arange(len(self.requests), device=self.subjects.device) * self.rows_per_edit
        return self.outputs[rows, self.subjects[rows]].float()


def start_running(
    language_model: LanguageModel,
    indices: list[int],
    requests: list[TargetRequest],
    layer: int,
    in_tuple: bool,
) -> RunningEdits:
    """Run the blocks up to `layer` once for all sequences of some edits."""
    tokens = language_model.batch([row for request in requests for row in request.rows()])
    positions = [
        prompt.subject_position for request in requests for prompt in (*request.prompts, request.essence)
    ]
    tap = Tap(language_model.anatomy.blocks[layer], "output")
    outputs = read_taps(language_model.model, tokens, [tap])[tap]
    return RunningEdits(
        layer, in_tuple, indices, requests, tokens, outputs, tokens.columns(torch.tensor(positions))
    )
