"""Words before a prompt that state a new fact and show how such facts are used (IKE, section 3)."""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from services.worker.editing.lexical_similarity import LexicalIndex
from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import (
    ModificationMismatch,
    StoredModification,
    write_modification,
)

KIND = "demonstrations"


@dataclass(frozen=True)
class NewFact:
    """An edit as it is told: complete prompts, and answers without spaces around them."""

    prompt: str
    answer: str
    former_answer: str
    paraphrases: tuple[str, ...]
    neighborhood: tuple[str, ...]

    @classmethod
    def read(cls, fact: dict[str, Any]) -> "NewFact":
        """What `asdict` gave, after a journey through JSON."""
        lists = ("paraphrases", "neighborhood")
        return cls(**{**fact, **{name: tuple(fact[name]) for name in lists}})

    @property
    def statement(self) -> str:
        return f"{self.prompt} {self.answer}"

    def copies(self) -> list[str]:
        """The fact itself: what it teaches is to repeat it."""
        return [self.statement]

    def updates(self) -> list[str]:
        """The fact in other words: what it teaches is to carry it over."""
        return [f"{prompt} {self.answer}" for prompt in self.paraphrases]

    def retentions(self) -> list[str]:
        """Facts beside it: what they teach is to leave them alone."""
        return [f"{prompt} {self.former_answer}" for prompt in self.neighborhood]


Kind = Callable[[NewFact], list[str]]

# Which kind is shown of the most similar fact, the next, …: copies, updates and retentions as 1 : 3 : 4
# (the paper's proportions; it shuffles them).
KINDS: tuple[Kind, ...] = (
    NewFact.retentions,
    NewFact.updates,
    NewFact.retentions,
    NewFact.copies,
    NewFact.updates,
    NewFact.retentions,
    NewFact.updates,
    NewFact.retentions,
)


@dataclass(frozen=True)
class Demonstrations:
    """New facts, of which those most like a prompt are told before it.

    count: demonstrations before a prompt, at most; answer_tokens: positions that they leave free.

    The fact most like the prompt is stated last and shown in no other words: of its paraphrases, those that
    the prompt may be one of. The next ones are demonstrated in one way each, the most similar last. A prompt
    that has nothing to do with any fact gets the most similar ones too. Likeness is that of `LexicalIndex`,
    between the prompt and the facts' own prompts (the paper's is a sentence encoder's).
    """

    facts: tuple[NewFact, ...]
    count: int
    answer_tokens: int
    base_revision: str

    @contextmanager
    def applied(self, language_model: LanguageModel) -> Iterator[LanguageModel]:
        """See `Modification.applied`. Training texts get no demonstrations, only prompts do."""
        index = LexicalIndex([fact.prompt for fact in self.facts])
        limit = language_model.context_length

        @cache
        def tokens(text: str) -> int:
            return len(encode_prompts(language_model.tokenizer, [text])[0])

        @cache
        def preamble(prompt: str) -> str:
            first, *others = (self.facts[place] for place in index.ranked(prompt)[: self.count + 1])
            parts = [f"New Fact: {first.statement}\nPrompt: ", *demonstrations(others, prompt)]
            if limit is not None:
                room = limit - self.answer_tokens - tokens(prompt)
                parts = parts[: bisect_right(list(accumulate(map(tokens, parts))), room)]
            return "".join(reversed(parts))

        yield replace(language_model, preamble=preamble)

    def save(self, path: Path) -> None:
        """Write the facts as a safetensors file, as JSON in UTF-8."""
        text = json.dumps([asdict(fact) for fact in self.facts], ensure_ascii=False)
        tensors = {"facts": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}
        write_modification(
            path, KIND, self.base_revision, tensors, count=self.count, answer_tokens=self.answer_tokens
        )

    @classmethod
    def stored(cls, stored: StoredModification) -> "Demonstrations":
        """The demonstrations that `save` wrote; raises ModificationMismatch when they are not whole."""
        try:
            told = json.loads(stored.tensors["facts"].numpy().tobytes())
            facts = tuple(NewFact.read(fact) for fact in told)
            count, answer_tokens = int(stored.header["count"]), int(stored.header["answer_tokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModificationMismatch(f"the demonstrations are not whole: {error!r}") from error
        if not facts:
            raise ModificationMismatch("there is no new fact to tell")
        return cls(facts, count, answer_tokens, stored.base_revision)


def demonstrations(facts: Sequence[NewFact], asked: str) -> list[str]:
    """One demonstration of each fact, in the same order; a fact without examples of a kind shows another.

    asked: the prompt that they will precede, which none of them may answer.
    """
    shown = []
    for place, fact in enumerate(facts):
        for kind in (KINDS[place % len(KINDS)], NewFact.updates, NewFact.copies):
            examples = [example for example in kind(fact) if not example.startswith(asked.strip())]
            if examples:
                shown.append(f"New Fact: {fact.statement}\nPrompt: {examples[place % len(examples)]}\n\n")
                break
    return shown
