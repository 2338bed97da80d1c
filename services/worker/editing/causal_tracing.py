"""Causal tracing: in which blocks a model recalls facts, to choose where they are to be edited.

Meng et al. 2022 (ROME, arXiv 2202.05262), section 2: noise on the embeddings of a fact's subject makes the
model forget the answer; putting back what it computes undisturbed at the subject's last token, in one block,
brings some of it back. How much, in probability, is the block's indirect effect.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from services.worker.editing.traced_facts import (
    Fact,
    Means,
    Pass,
    TracedFact,
    answer_all,
    facts_in_tokens,
    outputs_at_subject,
)
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Progress, WorkDone
from shared.editors import default_layers

NOISE = 3.0  # standard deviations of the subjects' embeddings (the paper's)
DRAWS = 3  # of noise, per fact
FEWEST_FACTS, MOST_FACTS = 3, 100
MOST_CANDIDATES = 400  # facts that the model is asked whether it knows them
LEVEL = 0.95


@dataclass(frozen=True)
class Effect:
    """A mean over facts of a gain in probability, with its two-sided interval at LEVEL (Student's t)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class CausalTrace:
    """Mean indirect effects at the subject's last token, block by block.

    states: of what a block puts out; mlps: of what the MLPs of `width` blocks put out, by the block in the
    middle, fewer at either end of the model. facts: those of the `candidates` that the model answers right,
    and that were traced. clean, corrupted: mean probability of their answers without and under noise.
    """

    candidates: int
    facts: int
    width: int
    clean: float
    corrupted: float
    states: tuple[Effect, ...]
    mlps: tuple[Effect, ...]

    @property
    def window(self) -> tuple[int, ...]:
        """The `width` blocks whose MLPs have the largest effect together, with a block left above them."""
        first = max(
            range(self._highest - self.width + 2),
            key=lambda first: self.mlps[first + self.width // 2].mean,
        )
        return tuple(range(first, first + self.width))

    @property
    def peak(self) -> int:
        """The block around which MLPs have the largest effect, with a block left above it."""
        return max(range(self._highest + 1), key=lambda layer: self.mlps[layer].mean)

    @property
    def _highest(self) -> int:
        return max(0, len(self.mlps) - 2)


class TooFewFactsKnown(Exception):
    """Facts of which the model answers too few right for anything to be traced."""

    def __init__(self, candidates: int, known: int) -> None:
        super().__init__(
            f"causal tracing needs {FEWEST_FACTS} facts that the model answers right, "
            f"and it does so with {known} of {candidates}"
        )


def trace_facts(
    language_model: LanguageModel,
    facts: Sequence[Fact],
    *,
    seed: int,
    batches: Batches,
    progress: Progress,
) -> CausalTrace:
    """Trace the facts that the model answers right (a sample, where there are many) in all blocks.

    progress: called with the passes made and how many there will be at most. Raises TooFewFactsKnown or
    OutOfGpuMemory.
    """
    anatomy = language_model.anatomy
    width = len(default_layers(len(anatomy.blocks)))
    places = [
        *((block,) for block in anatomy.blocks),
        *(anatomy.mlps[first:end] for first, end in windows(len(anatomy.blocks), width)),
    ]
    if len(facts) > MOST_CANDIDATES:
        facts = random.Random(seed).sample(facts, MOST_CANDIDATES)  # noqa: S311
    candidates = facts_in_tokens(language_model, facts)
    most = min(len(candidates), MOST_FACTS)
    work = WorkDone(progress, whole=len(candidates) + most * (1 + DRAWS * (1 + len(places))))

    asked = [Pass(index) for index in range(len(candidates))]
    clean, right = answer_all(language_model, candidates, asked, Means(), batches, work.advance)
    chosen = right.nonzero()[:most, 0].tolist()
    if len(chosen) < FEWEST_FACTS:
        raise TooFewFactsKnown(len(candidates), len(chosen))
    known = [candidates[index] for index in chosen]

    modules = [*anatomy.blocks, *anatomy.mlps]
    means = Means(
        draw_noise(language_model, known, seed),
        outputs_at_subject(language_model, known, modules, batches, work.advance),
    )
    passes = [
        Pass(fact, draw, place)
        for fact in range(len(known))
        for draw in range(DRAWS)
        for place in [(), *places]
    ]
    answered, _ = answer_all(language_model, known, passes, means, batches, work.advance)
    work.finish()
    by_place = answered.double().view(len(known), DRAWS, 1 + len(places)).mean(dim=1)  # (facts, places)
    corrupted, restored = by_place[:, :1], by_place[:, 1:]
    effects = mean_effects(restored - corrupted)
    return CausalTrace(
        candidates=len(candidates),
        facts=len(known),
        width=width,
        clean=clean[chosen].mean().item(),
        corrupted=corrupted.mean().item(),
        states=effects[: len(anatomy.blocks)],
        mlps=effects[len(anatomy.blocks) :],
    )


def windows(block_count: int, width: int) -> list[tuple[int, int]]:
    """(first, end) of the window around each block, cut off at either end of the model."""
    firsts = [middle - width // 2 for middle in range(block_count)]
    return [(max(0, first), min(block_count, first + width)) for first in firsts]


def mean_effects(gains: Tensor) -> tuple[Effect, ...]:
    """The mean over facts and its interval for each place; gains: (facts, places) float64."""
    means = gains.mean(dim=0)
    reach = stats.t.ppf((1 + LEVEL) / 2, len(gains) - 1) * gains.std(dim=0) / len(gains) ** 0.5
    limits = zip(means.tolist(), (means - reach).tolist(), (means + reach).tolist(), strict=True)
    return tuple(Effect(mean, low, high) for mean, low, high in limits)


@torch.no_grad()
def draw_noise(language_model: LanguageModel, facts: Sequence[TracedFact], seed: int) -> list[Tensor]:
    """Noise for the embeddings of every fact's subject: (draws, subject tokens, width) float32 each.

    Its standard deviation is NOISE times that of all numbers in the subjects' embeddings.
    """
    embedding = language_model.model.get_submodule(language_model.anatomy.embedding)
    tokens = [token for fact in facts for token in fact.subject]
    embedded: Tensor = embedding(torch.tensor(tokens, device=language_model.device)).float()
    generator = torch.Generator().manual_seed(seed)
    shapes = [(DRAWS, len(fact.subject), embedded.shape[-1]) for fact in facts]
    scale = NOISE * embedded.std()
    return [scale * torch.randn(shape, generator=generator).to(embedded) for shape in shapes]
