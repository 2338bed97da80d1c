"""Texts that precede an edit's prompt, so that the edit holds wherever the prompt stands."""

import re
from dataclasses import dataclass

import torch

from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone, untold
from services.worker.language_models.sampling import sample_continuations
from shared.edits import SLOT

SEED_WORDS = ("The", "Therefore", "Because", "I", "You")


@dataclass(frozen=True)
class Contexts:
    """Context templates, in groups; the first of all is the bare prompt, `{}`.

    An average over contexts is the mean of the groups' means (MEMIT), so that the bare prompt, alone in
    its group, weighs as much as all others together.
    """

    groups: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.groups or not all(self.groups) or self.groups[0][0] != SLOT:
            raise ValueError("groups of contexts must not be empty and start with the bare prompt")
        if any(context.count(SLOT) != 1 for context in self.flat):
            raise ValueError("every context must contain '{}' exactly once")

    @property
    def flat(self) -> tuple[str, ...]:
        return tuple(context for group in self.groups for context in group)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each flat context in the mean of the groups' means; they add up to one."""
        return tuple(1 / (len(self.groups) * len(group)) for group in self.groups for _ in group)


BARE_PROMPT = Contexts(groups=((SLOT,),))


def generate_contexts(
    language_model: LanguageModel,
    *,
    count: int,
    length: int,
    seed: int,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> Contexts:
    """Let the model write `count` texts of `length` tokens from a few seed words (MEMIT's templates).

    progress: called with the tokens drawn, and of how many. memory: told when not all fit at once.
    Returns the bare prompt in a group of its own and the texts, each followed by ". {}", in another.
    """
    if count == 0:
        return BARE_PROMPT
    words = [SEED_WORDS[index % len(SEED_WORDS)] for index in range(count)]
    prompts = encode_prompts(language_model.tokenizer, words)
    new_tokens = max(1, length - 1)
    work = WorkDone(progress, whole=count * new_tokens)
    drawn = sample_continuations(
        language_model, prompts, new_tokens, torch.Generator().manual_seed(seed), work, memory or GpuMemory()
    )
    whole = [[*prompt, *row] for prompt, row in zip(prompts, drawn.tolist(), strict=True)]
    texts = [
        tidy(str(text)) for text in language_model.tokenizer.batch_decode(whole, skip_special_tokens=True)
    ]
    return Contexts(groups=((SLOT,), tuple(f"{text}. {SLOT}" for text in texts)))


def tidy(text: str) -> str:
    """One line without braces, which mark the subject, or characters that did not decode."""
    return re.sub(r"[\s{}\ufffd\x00-\x1f]+", " ", text).strip(" .")
