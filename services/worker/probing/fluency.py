"""Free writing and plain reading: what an editor or a tuning does to the language itself."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch

from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import WorkDone, untold
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.sampling import sample_continuations
from services.worker.probing.narrow_head import evaluating
from services.worker.probing.scoring import score_continuations, tokens_at_once
from shared.docstrings import PERPLEXITY_MODULES, TUNING_MODULES, docstring_paragraphs
from shared.reports import FluencySample

WRITTEN_TOKENS = 60
MOST_PROMPTS, MOST_TEXTS = 50, 200
SEED = 0  # the same chance for every model
# n of the n-grams and the weight of their entropy, of which the mean is taken (Meng et al. 2022, appendix).
WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def plain_texts() -> list[str]:
    """Plain English that `builtin:docstrings` does not train on, from all over the modules that have it."""
    trained_on = set(docstring_paragraphs(TUNING_MODULES))
    return spread(
        [text for text in docstring_paragraphs(PERPLEXITY_MODULES) if text not in trained_on], MOST_TEXTS
    )


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most so many of the items, evenly spaced."""
    return [items[place * len(items) // most] for place in range(most)] if len(items) > most else list(items)


def measure_fluency(
    language_model: LanguageModel, prompts: Sequence[str], texts: Sequence[str], memory: GpuMemory
) -> FluencySample:
    """Have the model go on from the prompts, drawing from its own distribution, and read the texts.

    A prompt that leaves little room to write is passed over; so is what goes beyond the model's positions of
    a text.
    """
    nats, tokens = read_plainly(language_model, texts, memory)
    return FluencySample(
        entropies=[n_gram_entropy(text) for text in write_freely(language_model, prompts, memory)],
        nats=nats,
        tokens=tokens,
    )


def write_freely(language_model: LanguageModel, prompts: Sequence[str], memory: GpuMemory) -> list[str]:
    """Each prompt with what the model writes after it, at temperature 1 and with the same chance always."""
    tokenizer, limit = language_model.tokenizer, language_model.context_length
    encoded = encode_prompts(tokenizer, [language_model.preamble(prompt) + prompt for prompt in prompts])
    new_tokens = WRITTEN_TOKENS if limit is None else min(WRITTEN_TOKENS, limit // 2)
    asked = [index for index, ids in enumerate(encoded) if limit is None or len(ids) + new_tokens <= limit]
    if not asked:
        return []
    with evaluating(language_model.model):
        drawn = sample_continuations(
            language_model,
            [encoded[index] for index in asked],
            new_tokens,
            torch.Generator().manual_seed(SEED),
            WorkDone(untold, whole=1),
            memory,
        )
    written = [str(tokenizer.decode(row)) for row in drawn.tolist()]
    return [prompts[index] + text for index, text in zip(asked, written, strict=True)]


def n_gram_entropy(text: str) -> float:
    """½ (⅔ H₂ + 4⁄3 H₃) in bits, Hₙ = −Σ f log₂ f over the frequencies f of the text's n-grams of words.

    Meng et al. 2022 (arXiv 2202.05262), "GE", as their code computes it; it is small where a text repeats
    itself. Words are runs of letters and digits, and other characters one by one.
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    entropies = {n: entropy(Counter(zip(*(words[at:] for at in range(n)), strict=False))) for n in WEIGHTS}
    return sum(WEIGHTS[n] * bits for n, bits in entropies.items()) / len(WEIGHTS)


def entropy(counts: Counter[tuple[str, ...]]) -> float:
    """Of the distribution that the counts are of, in bits; 0 over nothing."""
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def read_plainly(
    language_model: LanguageModel, texts: Sequence[str], memory: GpuMemory
) -> tuple[list[float], list[int]]:
    """Negative log-likelihood of each text (nats), and its tokens but the first, over which it is summed."""
    encoded = [
        ids[: language_model.context_length] for ids in encode_prompts(language_model.tokenizer, texts)
    ]
    asked = [PromptedTarget(tuple(ids[:1]), tuple(ids[1:])) for ids in encoded if len(ids) > 1]
    found = score_continuations(
        language_model, asked, tokens_at_once(language_model), "right", memory, untold
    )
    return [-rating.log_prob for rating in found], [len(continuation.target) for continuation in asked]
