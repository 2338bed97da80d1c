"""Second moments of the keys of a text corpus, streamed, kept on disk by content, shared by all editors."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.worker.editing.corpora import Corpus
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.progress import Progress, WorkDone, untold
from services.worker.language_models.taps import Tap, read_taps

log = logging.getLogger(__name__)

# Raised whenever the same corpus would give other numbers, so that older files are not read.
CACHE_VERSION = 2
# Added to the diagonal, relative to its mean, when a second moment is singular: a neuron of a ReLU MLP that
# no text of the corpus activates leaves a row of zeros.
RELATIVE_RIDGE = 1e-6


@dataclass(frozen=True)
class KeyStatistics:
    """The mean of k kᵀ over a corpus (not centred), by layer: (d_ff, d_ff) float64."""

    second_moments: Mapping[int, Tensor]
    token_count: int

    def second_moment(self, layer: int, device: torch.device) -> Tensor:
        """C of one layer; raises ValueError when it was not collected."""
        if layer not in self.second_moments:
            raise ValueError(f"there are no key statistics of layer {layer}")
        return self.second_moments[layer].to(device, torch.float64)


NO_STATISTICS = KeyStatistics(second_moments={}, token_count=0)


def solve_positive(matrix: Tensor, right: Tensor) -> tuple[Tensor, float]:
    """Solve `matrix` x = `right` for a symmetric positive (semi)definite float64 matrix.

    matrix: (n, n); right: (n, m). Returns x, (n, m) float64, and what had to be added to the diagonal for
    the matrix to be invertible: zero unless it is singular.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    ridge = 0.0
    if int(failed) != 0:
        ridge = RELATIVE_RIDGE * float(matrix.diagonal().mean())
        factor = torch.linalg.cholesky(matrix + ridge * torch.eye(len(matrix)).to(matrix))
    return torch.cholesky_solve(right, factor), ridge


def collect_key_statistics(
    language_model: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    token_budget: int,
    cache: Path | None = None,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> KeyStatistics:
    """Second moments of the keys of several layers, in one pass over the corpus.

    cache: a directory where each layer's moment is kept under a name made from the model's revision and
    dtype, the corpus and the layer; what is there already is not computed again. progress: called with
    the tokens done and the whole; a token is done once when it is written and once when it is read.
    memory: told when the token budget did not fit. Raises OutOfGpuMemory.
    """
    kept = {layer: cache_path(cache, language_model, corpus, layer) for layer in layers} if cache else {}
    found = {layer: read_kept(path) for layer, path in kept.items()}
    stored = {layer: tensors for layer, tensors in found.items() if tensors is not None}
    missing = [layer for layer in layers if layer not in stored]
    if missing:
        batches = Batches(token_budget, memory or GpuMemory())
        moments = stream_second_moments(language_model, corpus, missing, batches, progress)
        for layer, moment in moments.items():
            stored[layer] = moment
            if layer in kept:
                write_whole(kept[layer], moment)
    return KeyStatistics(
        second_moments={layer: stored[layer]["second_moment"] for layer in layers},
        token_count=min(int(stored[layer]["token_count"]) for layer in layers),
    )


def stream_second_moments(
    language_model: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    batches: Batches,
    progress: Progress,
) -> dict[int, dict[str, Tensor]]:
    """Sum k kᵀ over every token in float64, holding one (d_ff, d_ff) matrix per layer and one batch."""
    sequences = corpus.sequences(
        language_model, lambda written, whole: progress(written, 2 * whole), batches.memory
    )
    token_count = sum(len(sequence) for sequence in sequences)
    work = WorkDone(lambda read, whole: progress(whole + read, 2 * whole), whole=token_count)
    taps = {layer: Tap(language_model.anatomy.mlp_down_projections[layer], "input") for layer in layers}
    sums: dict[int, Tensor] = {}

    def add(chosen: Sequence[int]) -> None:
        batch = language_model.batch([sequences[index] for index in chosen])
        read = read_taps(language_model.model, batch, list(taps.values()))
        real = batch.attention_mask.bool()
        keys = {layer: read.pop(tap)[real].double() for layer, tap in taps.items()}  # (tokens, d_ff) each
        for layer, of_layer in keys.items():
            if layer not in sums:
                sums[layer] = of_layer.new_zeros(of_layer.shape[1], of_layer.shape[1])
        for layer, of_layer in keys.items():  # in place, so that no layer can lack the memory and others not
            sums[layer].addmm_(of_layer.T, of_layer)
        work.advance(sum(len(sequences[index]) for index in chosen))

    batches.run("texts were read", [len(sequence) for sequence in sequences], add)
    return {
        layer: {"second_moment": total.div_(token_count).cpu(), "token_count": torch.tensor(token_count)}
        for layer, total in sums.items()
    }


def cache_path(cache: Path, language_model: LanguageModel, corpus: Corpus, layer: int) -> Path:
    content = json.dumps(
        [
            *(CACHE_VERSION, torch.__version__, transformers.__version__, language_model.device.type),
            *(language_model.revision, str(language_model.dtype), corpus.identity, layer),
        ]
    )
    return cache / f"key-statistics-{hashlib.sha256(content.encode()).hexdigest()}.safetensors"


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """What `write_whole` wrote; None where nothing is or where a crash of the machine left it damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        return None
    except SafetensorError:
        log.warning("%s is damaged and is computed again", path)
        return None


def write_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write beside the file, then rename: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(descriptor)
    try:
        save_file(tensors, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
