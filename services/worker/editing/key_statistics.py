"""Second moments of the keys of a text corpus, streamed, kept on disk by content, shared by all editors."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from torch import Tensor

from services.worker.editing.corpora import Corpus
from services.worker.editing.kept_tensors import read_kept, write_whole
from services.worker.editing.second_moments import SAVE_EVERY_SECONDS, Sums, sum_up
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.progress import Progress, untold

# Raised whenever the same corpus would give other numbers, so that older files are not read.
CACHE_VERSION = 4
FINISHED, UNFINISHED = "key-statistics", "unfinished-key-statistics"
ABANDONED_AFTER_SECONDS = 7 * 24 * 3600.0
# Added to the diagonal, relative to its mean, when a second moment is singular or as good as that. Neurons
# (or combinations of them) that hardly any text activates leave rows of all but zeros, and edits would be
# written there with weights many thousand times as large as the model's own: they answer the prompts, but
# are gone after any rounding. The moments of the reference numbers are a hundred times and more above it.
RELATIVE_RIDGE = 1e-6


@dataclass(frozen=True)
class KeyStatistics:
    """The mean of k kᵀ over a corpus (not centred), by layer: (d_ff, d_ff) float64.

    split_half: how far apart the moments of the corpus's halves are, see `Sums.split_half`; none of a layer
    whose statistics were brought along, or of a corpus that cannot be halved.
    """

    second_moments: Mapping[int, Tensor]
    token_count: int
    split_half: Mapping[int, float] = field(default_factory=dict)

    def second_moment(self, layer: int, device: torch.device) -> Tensor:
        """C of one layer; raises ValueError when it was not collected."""
        if layer not in self.second_moments:
            raise ValueError(f"there are no key statistics of layer {layer}")
        return self.second_moments[layer].to(device, torch.float64)


NO_STATISTICS = KeyStatistics(second_moments={}, token_count=0)


class NotPositive(Exception):
    """A matrix that was to be a second moment, and is none: no small ridge makes it positive definite."""

    def __init__(self) -> None:
        super().__init__(
            "a second moment cannot be inverted: even with its diagonal raised by "
            f"{RELATIVE_RIDGE:g} of its mean it is not positive definite"
        )


def solve_second_moment(moment: Tensor, right: Tensor) -> tuple[Tensor, float]:
    """As `solve_positive`, where a pivot below the ridge counts as zero: `moment` is an estimate."""
    return solve_positive(moment, right, least_pivot=RELATIVE_RIDGE)


def solve_positive(matrix: Tensor, right: Tensor, least_pivot: float = 0.0) -> tuple[Tensor, float]:
    """Solve `matrix` x = `right` for a symmetric positive (semi)definite float64 matrix.

    matrix: (n, n); right: (n, m); least_pivot: relative to the mean of the diagonal. Returns x, (n, m)
    float64, and what had to be added to the diagonal for all pivots to be above that: zero unless one was
    not. Raises NotPositive where that does not help. It holds one matrix of this size beside `matrix`
    (torch.cholesky_solve would hold two).
    """
    mean = float(matrix.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(matrix)
    ridge = 0.0
    if int(failed) != 0 or float(factor.diagonal().square().min()) < least_pivot * mean:
        del factor  # at the widths of large models there is room for one
        ridge = RELATIVE_RIDGE * mean
        with raised_diagonal(matrix, ridge):
            factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed) != 0:
            raise NotPositive
    halfway = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, halfway, upper=True), ridge


@contextmanager
def raised_diagonal(matrix: Tensor, ridge: float) -> Iterator[None]:
    """Add to the diagonal in place, without a copy of the matrix, and put it back bit for bit."""
    diagonal = matrix.diagonal()
    before = diagonal.clone()
    try:
        diagonal.add_(ridge)
        yield
    finally:
        diagonal.copy_(before)


def collect_key_statistics(
    language_model: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    token_budget: int,
    cache: Path | None = None,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
) -> KeyStatistics:
    """Second moments of the keys of several layers, in one pass over the corpus.

    cache: a directory where each layer's moment is kept under a name made from the model's revision and
    dtype, the corpus and the layer; what is there already is not computed again, and a pass that was
    interrupted goes on. progress: see `sum_up`. memory: told when the token budget did not fit. Raises
    OutOfGpuMemory.
    """
    kept = {layer: cache_path(cache, language_model, corpus, [layer]) for layer in layers} if cache else {}
    found = {layer: read_kept(path) for layer, path in kept.items()}
    stored = {layer: tensors for layer, tensors in found.items() if tensors is not None}
    missing = [layer for layer in layers if layer not in stored]
    if missing:
        batches = Batches(token_budget, memory or GpuMemory())
        partial = cache_path(cache, language_model, corpus, missing, UNFINISHED) if cache else None
        if cache:
            remove_abandoned(cache)
        sums = sum_up(
            language_model,
            corpus,
            missing,
            batches,
            progress,
            partial=partial,
            save_every_seconds=save_every_seconds,
        )
        for layer in missing:
            stored[layer] = moment_of(sums, layer)
            if layer in kept:
                write_whole(kept[layer], stored[layer])
        if partial:
            partial.unlink(missing_ok=True)
    return KeyStatistics(
        second_moments={layer: stored[layer]["second_moment"] for layer in layers},
        token_count=min(int(stored[layer]["token_count"]) for layer in layers),
        split_half={
            layer: float(stored[layer]["split_half"]) for layer in layers if "split_half" in stored[layer]
        },
    )


def moment_of(sums: Sums, layer: int) -> dict[str, Tensor]:
    """What is kept of one layer."""
    moment = {"second_moment": sums.second_moment(layer), "token_count": torch.tensor(sums.tokens)}
    split_half = sums.split_half(layer)
    if split_half is not None:
        moment["split_half"] = torch.tensor(split_half, dtype=torch.float64)
    return moment


def cache_path(
    cache: Path, language_model: LanguageModel, corpus: Corpus, layers: Sequence[int], prefix: str = FINISHED
) -> Path:
    content = json.dumps(
        [
            *(CACHE_VERSION, torch.__version__, transformers.__version__, language_model.device.type),
            *(language_model.revision, str(language_model.dtype), corpus.identity, *layers),
        ]
    )
    return cache / f"{prefix}-{hashlib.sha256(content.encode()).hexdigest()}.safetensors"


def remove_abandoned(cache: Path) -> None:
    """Remove the sums of passes that nobody has gone on with for long; they are large."""
    for path in cache.glob(f"{UNFINISHED}-*"):
        with suppress(FileNotFoundError):  # gone on with or removed by another worker, in this moment
            if path.stat().st_mtime < time.time() - ABANDONED_AFTER_SECONDS:
                path.unlink()
