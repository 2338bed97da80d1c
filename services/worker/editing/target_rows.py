"""Prompts followed by what an edit wants after them, in one batch, run from a block in the middle."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.contexts import BARE_PROMPT, Contexts
from services.worker.editing.token_positions import check_lengths, prompt_sequences
from services.worker.language_models.batching import TokenBatch, encode_target
from services.worker.language_models.hooks import intercepted_output
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.taps import (
    Tap,
    blocks_return_tuples,
    head_reading,
    read_taps,
    replayed_blocks,
)
from shared.edits import Edit


def target_rows(
    language_model: LanguageModel, edits: Sequence[Edit], contexts: Contexts = BARE_PROMPT
) -> list[list[PromptedTarget]]:
    """Per edit, its prompt in every context, with its new target.

    Raises SubjectNotFound, or SubjectTruncated when a prompt and its target exceed the context length.
    """
    prompts = prompt_sequences(language_model, edits, contexts.flat)
    targets = [tuple(encode_target(language_model.tokenizer, edit.target_new)) for edit in edits]
    check_lengths(language_model, prompts, [len(target) for target in targets])
    return [
        [PromptedTarget(prompt.ids, target) for prompt in of_edit]
        for of_edit, target in zip(prompts, targets, strict=True)
    ]


@dataclass(frozen=True)
class RowBatch:
    """Rows in one batch, of which only the blocks from `layer` on are run.

    tokens: (rows, sequence); below: what block `layer` − 1 puts out, (rows, sequence, hidden), None where
    there is no such block; in_tuple: see `blocks_return_tuples`.
    """

    rows: tuple[PromptedTarget, ...]
    layer: int
    tokens: TokenBatch
    below: Tensor | None
    in_tuple: bool

    def keep(self, places: Sequence[int]) -> "RowBatch":
        """Only the rows at `places`."""
        chosen = torch.tensor(places, device=self.tokens.input_ids.device)
        return RowBatch(
            tuple(self.rows[place] for place in places),
            self.layer,
            TokenBatch(self.tokens.input_ids[chosen], self.tokens.attention_mask[chosen]),
            None if self.below is None else self.below[chosen],
            self.in_tuple,
        )

    def predicting(self) -> tuple[Tensor, Tensor]:
        """(rows, columns) of the tokens after which the targets' tokens are predicted, row by row."""
        starts = self.tokens.starts.tolist()
        rows = [number for number, row in enumerate(self.rows) for _ in row.positions]
        columns = [
            start + position
            for start, row in zip(starts, self.rows, strict=True)
            for position in row.positions
        ]
        return (
            torch.tensor(rows, device=self.tokens.input_ids.device),
            torch.tensor(columns, device=self.tokens.input_ids.device),
        )

    @contextmanager
    def predicted_from(self, language_model: LanguageModel, path: str, values: Tensor) -> Iterator[None]:
        """Have a module put out `values`, (target tokens, width), at the tokens of `predicting`."""
        rows, columns = self.predicting()
        tokens = rows * self.tokens.input_ids.shape[1] + columns  # OPT flattens its batch inside a block

        def put_in(_inputs: Tensor, output: Tensor) -> Tensor:
            flat = output.reshape(-1, output.shape[-1])
            return flat.index_put((tokens,), values.to(flat.dtype)).view(output.shape)

        with intercepted_output(language_model.model, path, put_in):
            yield

    def surprise(self, language_model: LanguageModel) -> Tensor:
        """Mean of −log p over each row's target, in nats: (rows,) float32; differentiable."""
        model, anatomy = language_model.model, language_model.anatomy
        with (
            replayed_blocks(model, anatomy, self.layer - 1, self.below, in_tuple=self.in_tuple),
            head_reading(model, anatomy, *self.predicting()),
        ):
            logits = model(**self.tokens.forward_arguments(model), use_cache=False).logits[0]
        wanted = torch.tensor([token for row in self.rows for token in row.target], device=logits.device)
        log_probs = logits.float().log_softmax(dim=-1).gather(1, wanted[:, None])[:, 0]
        per_row = torch.split(log_probs, [len(row.target) for row in self.rows])
        return torch.stack([-values.mean() for values in per_row])


def start_rows(
    language_model: LanguageModel, rows: Sequence[PromptedTarget], layer: int, taps: Sequence[Tap] = ()
) -> tuple[RowBatch, dict[Tap, Tensor]]:
    """Run the blocks below `layer` once for all rows; taps: what else to read on the way."""
    model, anatomy = language_model.model, language_model.anatomy
    tokens = language_model.batch([row.inputs for row in rows])
    below = [Tap(anatomy.blocks[layer - 1], "output")] if layer > 0 else []
    read = read_taps(model, tokens, [*below, *taps]) if below or taps else {}
    in_tuple = blocks_return_tuples(model, anatomy)
    return RowBatch(tuple(rows), layer, tokens, read[below[0]] if below else None, in_tuple), read
