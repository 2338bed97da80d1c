"""Scoring probes: what a model answers, in as few forward passes as the token budget allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from services.worker.language_models.batching import (
    PaddingSide,
    pad,
    split_by_tokens,
)
from services.worker.language_models.continuation import Continuation, can_continue
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone, untold
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.probing.encoded_answers import encode_answers
from services.worker.probing.forks import Group, Tokens, lay_out
from services.worker.probing.narrow_head import evaluating, logits_at, uncached_arguments
from services.worker.probing.shared_reading import GroupReader
from shared.measurement import Probe, ProbeScore

MAX_PREDICTED_TOKEN_CHARACTERS = 255
# On one CPU thread, 1,024 tokens at once of a model of four million parameters took 0.6 of the time of 8,192.
CPU_TOKENS, GPU_TOKENS = 1_024, 8_192
MAX_LOGITS = 2**27  # held at once: 512 MiB in float32
# What a model that has diverged to not-a-number gives its answers: a number, so that it can be stored.
LOG_PROB_OF_NOTHING = -1e9


class ProbeTooLong(Exception):
    """A prompt and answer that have more tokens than the model has positions."""

    def __init__(self, prompt: str, tokens: int, limit: int) -> None:
        super().__init__(f"{tokens} tokens exceed the model's {limit} positions: '{prompt[:80]}'")
        self.tokens = tokens
        self.limit = limit


@dataclass(frozen=True)
class ContinuationScore:
    """How a model rates a continuation; the log-probability is the sum over the target's tokens.

    hits: of the target's tokens, those that are the argmax; predictions: the argmax at each of them.
    """

    log_prob: float
    hits: int
    first_token: bool
    predictions: tuple[int, ...]

    @property
    def exact(self) -> bool:
        return self.hits == len(self.predictions)


def score(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    *,
    token_budget: int | None = None,
    padding_side: PaddingSide = "right",
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> list[ProbeScore]:
    """Score every probe's answer and alternative by teacher forcing; scores in the order of the probes.

    The prompt is encoded by the tokenizer's defaults (with BOS where it adds one), the answer after
    exactly one space; spaces at the end of a prompt and around an answer do not count. `exact` is that
    every token of the answer is the argmax, which is that greedy decoding starts with exactly it.
    `preference` is log p(answer) > log p(alternative), each summed over its own tokens: for an edit, that
    is CounterFact's comparison of the new answer with the true one (Meng et al., 2202.05262).
    A model whose logits are not numbers gets nothing right.
    token_budget: padded tokens per forward pass; by default what suits the device. progress: called after
    each pass with the probes done, and of how many. memory: told when fewer prompts than that fit into the
    GPU's memory at once.
    The model is left in the mode that it was in.
    Raises ProbeTooLong when a prompt with its answer exceeds the model's positions, and OutOfGpuMemory.
    """
    encoded = encode_answers(language_model, probes)
    check_lengths(language_model, probes, encoded)
    wanted = list(dict.fromkeys(continuation for pair in encoded for continuation in pair if continuation))
    found = score_continuations(
        language_model,
        wanted,
        token_budget or tokens_at_once(language_model),
        padding_side,
        memory or GpuMemory(),
        # Probes share continuations, so that those done are the same share of all, about.
        lambda done, whole: progress(len(probes) * done // whole, len(probes)),
    )
    rated = dict(zip(wanted, found, strict=True))
    scores = []
    for answer, alternative in encoded:
        given = rated[answer]
        against = rated[alternative] if alternative is not None else None
        scores.append(
            ProbeScore(
                first_token=given.first_token,
                exact=given.exact,
                preference=given.log_prob > against.log_prob if against else None,
                log_prob_answer=given.log_prob,
                log_prob_alternative=against.log_prob if against else None,
                alternative_exact=against.exact if against else None,
                predicted_token=shown(language_model, given.predictions[:1]),
                answer_tokens=len(given.predictions),
                answer_hits=given.hits,
                alternative_tokens=len(against.predictions) if against else None,
                predictions=" ".join(map(str, given.predictions)),
                predicted_answer=shown(language_model, until_different(given.predictions, answer.target)),
            )
        )
    return scores


def tokens_at_once(language_model: LanguageModel) -> int:
    """Padded tokens of a forward pass: as many on a CPU as leave activations in its caches, else more."""
    return CPU_TOKENS if language_model.device.type == "cpu" else GPU_TOKENS


def check_lengths(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    encoded: Sequence[tuple[PromptedTarget, PromptedTarget | None]],
) -> None:
    """Raise ProbeTooLong for the first probe that the model has too few positions for."""
    text_config = language_model.model.config.get_text_config(decoder=True)
    limit: int | None = getattr(text_config, "max_position_embeddings", None)
    for probe, pair in zip(probes, encoded, strict=True):
        longest = max(len(continuation.inputs) for continuation in pair if continuation)
        if limit is not None and longest > limit:
            raise ProbeTooLong(probe.prompt, longest, limit)


def score_continuations(
    language_model: LanguageModel,
    continuations: Sequence[PromptedTarget],
    token_budget: int,
    padding_side: PaddingSide,
    memory: GpuMemory,
    progress: Progress,
) -> list[ContinuationScore]:
    """Score continuations; what several begin with is read once, where the model can go on from it."""
    scores: list[ContinuationScore | None] = [None] * len(continuations)
    work = WorkDone(progress, whole=len(continuations))
    beginnings: dict[Tokens, Continuation] = {}

    def score_group(group: Group) -> None:
        shares = group.shared or group.apart
        reader = GroupReader(language_model, group, beginnings) if shares else None

        def score_rows(places: Sequence[int]) -> None:
            rows = [group.rows[place] for place in places]
            if reader:
                arguments = reader.ends(rows).forward_arguments(language_model.model)
                starts = [-row.shared for row in rows]
            else:
                inputs = [row.inputs for row in rows]
                batch = pad(inputs, language_model.pad_token_id, padding_side).to(language_model.device)
                arguments = uncached_arguments(language_model, batch)
                starts = batch.starts.tolist()
            members = [index for row in rows for index in row.members]
            placed = [
                (number, start, continuations[index])
                for number, (row, start) in enumerate(zip(rows, starts, strict=True))
                for index in row.members
            ]
            found = score_placed(language_model, arguments, placed)
            for index, of_continuation in zip(members, found, strict=True):
                scores[index] = of_continuation
            work.advance(len(members))

        by_tokens = split_by_tokens([len(row.inputs) for row in group.rows], token_budget)
        scored = [sum(len(continuations[index].target) for index in row.members) for row in group.rows]
        batches = split_by_logits(by_tokens, scored, vocabulary_size(language_model))
        memory.run("prompts were scored", batches, score_rows)

    # Not in inference mode: buffers that a model makes in passing may be needed for a backward pass later.
    with torch.no_grad(), evaluating(language_model.model):
        for group in groups_to_read(language_model, continuations):
            score_group(group)
    return [of_continuation for of_continuation in scores if of_continuation is not None]


def groups_to_read(language_model: LanguageModel, continuations: Sequence[PromptedTarget]) -> list[Group]:
    """The continuations laid out so that the model can read them."""
    groups = lay_out(continuations, sharing=True)
    if not any(group.shared or group.apart for group in groups):
        return groups
    try:
        sharing = can_continue(language_model.model, language_model.anatomy)
    except torch.OutOfMemoryError:
        sharing = False
    return groups if sharing else lay_out(continuations, sharing=False)


def split_by_logits(
    batches: Sequence[Sequence[int]], scored: Sequence[int], vocabulary: int
) -> Iterator[list[int]]:
    """Split batches further, so that none holds more than MAX_LOGITS logits at once.

    scored: positions of each item at which a distribution over the vocabulary is taken.
    """
    for batch in batches:
        part: list[int] = []
        taken = 0
        for item in batch:
            if part and (taken + scored[item]) * vocabulary > MAX_LOGITS:
                yield part
                part, taken = [], 0
            part.append(item)
            taken += scored[item]
        yield part


def vocabulary_size(language_model: LanguageModel) -> int:
    head = language_model.model.get_submodule(language_model.anatomy.head)
    return int(head.get_parameter("weight").shape[0])


def score_placed(
    language_model: LanguageModel,
    arguments: Mapping[str, Any],
    placed: Sequence[tuple[int, int, PromptedTarget]],
) -> list[ContinuationScore]:
    """One forward pass with these keyword arguments.

    placed: each continuation, after the row that it is read in and the column of its first token there;
    below 0 where the row's first tokens have been read before.
    """
    rows = torch.tensor([row for row, _, continuation in placed for _ in continuation.target])
    columns = torch.tensor(
        [start + position for _, start, continuation in placed for position in continuation.positions]
    )
    wanted = torch.tensor([token for _, _, continuation in placed for token in continuation.target])
    logits = logits_at(language_model, arguments, rows, columns).float()
    log_probs = logits.log_softmax(dim=-1).gather(1, wanted.to(logits.device)[:, None])[:, 0].cpu()
    finite = log_probs.isfinite()
    log_probs = log_probs.where(finite, torch.tensor(LOG_PROB_OF_NOTHING))
    argmax = logits.argmax(dim=-1).cpu()
    hits = (argmax == wanted) & finite
    scores = []
    start = 0
    for _, _, continuation in placed:
        end = start + len(continuation.target)
        scores.append(
            ContinuationScore(
                log_prob=float(log_probs[start:end].sum()),
                hits=int(hits[start:end].sum()),
                first_token=bool(hits[start]),
                predictions=tuple(argmax[start:end].tolist()),
            )
        )
        start = end
    return scores


def until_different(predictions: Sequence[int], target: Sequence[int]) -> Sequence[int]:
    """The predictions up to the first that is not the target's: later ones were not made from their like."""
    unlike = (place for place, pair in enumerate(zip(predictions, target, strict=True)) if pair[0] != pair[1])
    return predictions[: next(unlike, len(predictions)) + 1]


def shown(language_model: LanguageModel, tokens: Sequence[int]) -> str:
    """Tokens as text."""
    return readable(str(language_model.tokenizer.decode(list(tokens))))


def readable(text: str) -> str:
    """The beginning of a text; NUL, which a database may refuse, is shown as the replacement character."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_PREDICTED_TOKEN_CHARACTERS]
