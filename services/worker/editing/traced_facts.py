"""Facts in tokens, with the place of the subject, and passes over them that are interfered with."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.worker.editing.token_positions import SubjectNotFound, locate_subject
from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Advance
from services.worker.language_models.taps import (
    Tap,
    head_reading,
    moved_outputs,
    read_taps,
    replaced_outputs,
)
from shared.edits import SLOT


@dataclass(frozen=True)
class Fact:
    """A statement up to its object, with `{}` for the subject, and the object."""

    prompt: str
    subject: str
    answer: str


@dataclass(frozen=True)
class TracedFact:
    """A fact in tokens; first, last: positions of the subject in the prompt (BOS counted)."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    first: int
    last: int

    @property
    def ids(self) -> tuple[int, ...]:
        """What is run: the prompt and the answer but its end."""
        return self.prompt + self.answer[:-1]

    @property
    def subject(self) -> tuple[int, ...]:
        return self.prompt[self.first : self.last + 1]


@dataclass(frozen=True)
class Pass:
    """One pass over one fact: under a draw of noise (None: without), with outputs of modules put back."""

    fact: int
    draw: int | None = None
    restored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Means:
    """What passes interfere with.

    noise: per fact, (draws, subject tokens, width of the embedding) float32 on the model's device. clean: by
    module, what it puts out undisturbed at the last token of each fact's subject, (facts, hidden).
    """

    noise: Sequence[Tensor] = ()
    clean: Mapping[str, Tensor] = field(default_factory=dict)


def facts_in_tokens(language_model: LanguageModel, facts: Sequence[Fact]) -> list[TracedFact]:
    """Tokenize facts, leaving out those whose subject cannot be told or that the model cannot read whole."""
    found = []
    for index, fact in enumerate(facts):
        try:
            whole = locate_subject(language_model.tokenizer, fact.prompt, fact.subject, index)
        except SubjectNotFound:
            continue
        before = fact.prompt.partition(SLOT)[0].rstrip()
        first = common_length(encode_prompts(language_model.tokenizer, [before])[0], whole.ids)
        answer = tuple(encode_target(language_model.tokenizer, fact.answer))
        limit = language_model.context_length
        if limit is None or len(whole.ids) + len(answer) <= limit:
            first = min(first, whole.subject_position)
            found.append(TracedFact(whole.ids, answer, first, whole.subject_position))
    return found


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def outputs_at_subject(
    language_model: LanguageModel,
    facts: Sequence[TracedFact],
    paths: Sequence[str],
    batches: Batches,
    advance: Advance,
) -> dict[str, Tensor]:
    """What modules put out at the last token of each fact's subject: (facts, hidden) each.

    advance: called with the facts read since the last call.
    """
    taps = {path: Tap(path, "output") for path in paths}
    found: dict[str, list[Tensor | None]] = {path: [None] * len(facts) for path in paths}

    def read(chosen: Sequence[int]) -> None:
        batch = language_model.batch([facts[index].ids for index in chosen])
        columns = batch.columns(torch.tensor([facts[index].last for index in chosen]))
        values = read_taps(language_model.model, batch, list(taps.values()))
        for path, tap in taps.items():
            at_subject = values.pop(tap)[torch.arange(len(chosen)), columns]
            for index, value in zip(chosen, at_subject, strict=True):
                found[path][index] = value
        advance(len(chosen))

    batches.run("facts were read", [len(fact.ids) for fact in facts], read)
    return {path: torch.stack([row for row in rows if row is not None]) for path, rows in found.items()}


def answer_all(
    language_model: LanguageModel,
    facts: Sequence[TracedFact],
    passes: Sequence[Pass],
    means: Means,
    batches: Batches,
    advance: Advance,
) -> tuple[Tensor, Tensor]:
    """Each pass's probability of the fact's whole answer, and whether all of its tokens are the likeliest.

    advance: called with the passes made since the last call. Returns (passes,) float32 and (passes,) bool,
    on the CPU.
    """
    probabilities, right = torch.zeros(len(passes)), torch.zeros(len(passes), dtype=torch.bool)

    def answer(chosen: Sequence[int]) -> None:
        at_once = [passes[index] for index in chosen]
        log_probs, likeliest = answer_tokens(language_model, facts, at_once, means)
        counts = [len(facts[one.fact].answer) for one in at_once]
        parts = zip(torch.split(log_probs, counts), torch.split(likeliest, counts), strict=True)
        for index, (of_tokens, are_likeliest) in zip(chosen, parts, strict=True):
            probabilities[index], right[index] = of_tokens.sum().exp(), are_likeliest.all()
        advance(len(chosen))

    batches.run("facts were traced", [len(facts[one.fact].ids) for one in passes], answer)
    return probabilities, right


@torch.no_grad()
def answer_tokens(
    language_model: LanguageModel, facts: Sequence[TracedFact], passes: Sequence[Pass], means: Means
) -> tuple[Tensor, Tensor]:
    """Make some passes at once; the answers' tokens follow one another, pass by pass.

    Returns their log-probabilities, (answer tokens,) float32, and whether each is the likeliest, (answer
    tokens,) bool, on the CPU.
    """
    model, anatomy, device = language_model.model, language_model.anatomy, language_model.device
    of_passes = [facts[one.fact] for one in passes]
    batch = language_model.batch([fact.ids for fact in of_passes])
    starts = batch.starts.tolist()
    reads = [
        (row, start + len(fact.prompt) - 1 + index, token)
        for row, (fact, start) in enumerate(zip(of_passes, starts, strict=True))
        for index, token in enumerate(fact.answer)
    ]
    rows, columns, wanted = torch.tensor(reads, device=device).T
    firsts = [
        row * batch.input_ids.shape[1] + start for row, start in enumerate(starts)
    ]  # tokens of the batch
    with (
        noise_on_subjects(language_model, of_passes, passes, firsts, means),
        outputs_put_back(language_model, of_passes, passes, firsts, means),
        head_reading(model, anatomy, rows, columns),
    ):
        logits: Tensor = model(**batch.forward_arguments(model), use_cache=False).logits[0]
    log_probs = logits.float().log_softmax(dim=-1)
    return log_probs.gather(1, wanted[:, None])[:, 0].cpu(), (log_probs.argmax(dim=-1) == wanted).cpu()


def noise_on_subjects(
    language_model: LanguageModel,
    facts: Sequence[TracedFact],
    passes: Sequence[Pass],
    firsts: Sequence[int],
    means: Means,
) -> AbstractContextManager[None]:
    """Add each pass's draw of noise to the embeddings of its subject.

    facts: of the passes, one each; firsts: where each begins, counted through the batch, row by row.
    """
    tokens: list[int] = []
    noise: list[Tensor] = []
    for fact, one, first in zip(facts, passes, firsts, strict=True):
        if one.draw is not None:
            tokens += range(first + fact.first, first + fact.last + 1)
            noise.append(means.noise[one.fact][one.draw])
    if not noise:
        return nullcontext()
    places = torch.tensor(tokens, device=language_model.device)
    path = language_model.anatomy.embedding
    return moved_outputs(language_model.model, [path], places, torch.cat(noise)[None])


def outputs_put_back(
    language_model: LanguageModel,
    facts: Sequence[TracedFact],
    passes: Sequence[Pass],
    firsts: Sequence[int],
    means: Means,
) -> AbstractContextManager[None]:
    """Put back what each pass restores; facts, firsts: see `noise_on_subjects`."""
    by_module: dict[str, list[tuple[int, int]]] = {}
    for fact, one, first in zip(facts, passes, firsts, strict=True):
        for path in one.restored:
            by_module.setdefault(path, []).append((first + fact.last, one.fact))
    replacements = {}
    for path, places in by_module.items():
        tokens, of_facts = torch.tensor(places, device=language_model.device).T
        replacements[path] = (tokens, means.clean[path][of_facts])
    return replaced_outputs(language_model.model, replacements)
