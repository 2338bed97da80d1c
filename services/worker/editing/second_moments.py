"""Σ k kᵀ over a corpus, portion by portion; what was summed up survives an interruption.

An interrupted pass that is gone on with gives the same bits as one that ran through, unless the GPU's memory
ran out in either, for then batches are cut differently.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from services.worker.editing.corpora import Corpus, Portion
from services.worker.editing.kept_tensors import read_kept, write_whole
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Progress, WorkDone
from services.worker.language_models.taps import Tap, read_taps

SAVE_EVERY_SECONDS = 120.0


@dataclass
class Sums:
    """What has been summed up, by layer.

    portions, tokens: how many were read. whole: Σ k kᵀ over all of these tokens, (d_ff, d_ff) float64; first:
    over those before the middle of the corpus, of which there are `first_tokens`; empty until the middle has
    been reached. Both are on the CPU: those of a few layers would fill a GPU that has room for little more
    than the model.
    """

    portions: int = 0
    tokens: int = 0
    whole: dict[int, Tensor] = field(default_factory=dict)
    first: dict[int, Tensor] = field(default_factory=dict)
    first_tokens: int = 0

    def second_moment(self, layer: int) -> Tensor:
        """Mean of k kᵀ over the whole, (d_ff, d_ff) float64 on the CPU."""
        return self.whole[layer] / self.tokens

    def split_half(self, layer: int) -> float | None:
        """‖A − B‖ / ‖C‖ (Frobenius) of the moments of either half and of the whole: how settled C is.

        None where a corpus has but one sequence, and so no second half.
        """
        if self.first_tokens == self.tokens:
            return None
        whole, first = self.whole[layer], self.first[layer]
        difference = first / self.first_tokens - (whole - first) / (self.tokens - self.first_tokens)
        return float(torch.linalg.matrix_norm(difference) / torch.linalg.matrix_norm(whole / self.tokens))

    def save(self, path: Path) -> None:
        """Write everything, see `write_whole`."""
        counts = torch.tensor([self.portions, self.tokens, self.first_tokens])
        whole = {f"whole{layer}": total for layer, total in self.whole.items()}
        first = {f"first{layer}": total for layer, total in self.first.items()}
        write_whole(path, {"counts": counts, **whole, **first})

    @classmethod
    def saved(cls, path: Path) -> "Sums":
        """What was saved; nothing summed up where there is no file, or a damaged one."""
        found = read_kept(path)
        if found is None:
            return cls()
        portions, tokens, first_tokens = found.pop("counts").tolist()
        whole = {name: tensor for name, tensor in found.items() if name.startswith("whole")}
        first = {name: tensor for name, tensor in found.items() if name.startswith("first")}
        return cls(
            portions,
            tokens,
            {int(name.removeprefix("whole")): tensor for name, tensor in whole.items()},
            {int(name.removeprefix("first")): tensor for name, tensor in first.items()},
            first_tokens,
        )


def sum_up(
    language_model: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    batches: Batches,
    progress: Progress,
    *,
    partial: Path | None = None,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
) -> Sums:
    """Sum k kᵀ over every token in float64.

    It holds two matrices per layer, and on the model's device one more and the keys of a batch.

    partial: where sums are saved now and then, and found by a pass that goes on; it is left behind. progress:
    called with the tokens done and the whole; a token is done once when it is written and once when it is
    read.
    """
    written = read = 0

    def told_of_writing(done: int, whole: int) -> None:
        nonlocal written
        written = done
        progress(written + read, 2 * whole)

    def told_of_reading(done: int, whole: int) -> None:
        nonlocal read
        read = done
        progress(written + read, 2 * whole)

    reading = corpus.read(language_model, told_of_writing, batches.memory)
    sums = Sums.saved(partial) if partial else Sums()
    read = sums.tokens
    work = WorkDone(told_of_reading, whole=reading.token_count, done=read)
    middle = (reading.token_count + 1) // 2
    saved_at = time.monotonic()
    for portion in reading.portions_from(sums.portions):
        before, after = split_at(portion, middle - sums.tokens)
        add(language_model, before, layers, sums, batches, work)
        if not sums.first and sums.tokens >= middle:
            sums.first = {layer: total.clone() for layer, total in sums.whole.items()}
            sums.first_tokens = sums.tokens
        add(language_model, after, layers, sums, batches, work)
        sums.portions += 1
        if partial and time.monotonic() - saved_at >= save_every_seconds:
            sums.save(partial)
            saved_at = time.monotonic()
    return sums


def split_at(portion: Portion, tokens: int) -> tuple[Portion, Portion]:
    """The shortest beginning with so many tokens, and the rest; either may be empty."""
    passed = 0
    for place, sequence in enumerate(portion):
        if passed >= tokens:
            return portion[:place], portion[place:]
        passed += len(sequence)
    return portion, []


def add(
    language_model: LanguageModel,
    portion: Portion,
    layers: Sequence[int],
    sums: Sums,
    batches: Batches,
    work: WorkDone,
) -> None:
    """Add k kᵀ of every token of a portion to the sums."""
    taps = {layer: Tap(language_model.anatomy.mlp_down_projections[layer], "input") for layer in layers}

    def add_batch(chosen: Sequence[int]) -> None:
        batch = language_model.batch([portion[index] for index in chosen])
        read = read_taps(language_model.model, batch, list(taps.values()))
        real = batch.attention_mask.bool()
        keys = {layer: read.pop(tap)[real].double() for layer, tap in taps.items()}  # (tokens, d_ff) each
        # Allocated before anything is added, so that no layer can lack the memory and others not.
        products = {
            width: batch.input_ids.new_empty(width, width, dtype=torch.float64)
            for width in {of_layer.shape[1] for of_layer in keys.values()}
        }
        for layer, of_layer in keys.items():
            product = torch.mm(of_layer.T, of_layer, out=products[of_layer.shape[1]]).cpu()
            if layer in sums.whole:
                sums.whole[layer] += product
            else:
                sums.whole[layer] = product.clone()
        tokens = sum(len(portion[index]) for index in chosen)
        sums.tokens += tokens
        work.advance(tokens)

    batches.run("texts were read", [len(sequence) for sequence in portion], add_batch)
