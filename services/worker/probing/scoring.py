"""Scoring probes: what a model answers, in as few forward passes as the token budget allows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from services.worker.language_models.batching import (
    PaddingSide,
    TokenBatch,
    pad,
    split_by_tokens,
)
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone, untold
from services.worker.probing.continuations import Continuation, encode_continuations
from shared.measurement import Probe, ProbeScore

MAX_PREDICTED_TOKEN_CHARACTERS = 255
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
    """How a model rates a continuation; the log-probability is the sum over the target's tokens."""

    log_prob: float
    first_token: bool
    exact: bool
    predicted: int


def score(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    *,
    token_budget: int = 8192,
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
    token_budget: padded tokens per forward pass. progress: called after each pass with the probes done,
    and of how many. memory: told when fewer prompts than that fit into the GPU's memory at once.
    The model is left in the mode that it was in.
    Raises ProbeTooLong when a prompt with its answer exceeds the model's positions, and OutOfGpuMemory.
    """
    encoded = encode_continuations(language_model, probes)
    check_lengths(language_model, probes, encoded)
    wanted = list(dict.fromkeys(continuation for pair in encoded for continuation in pair if continuation))
    found = score_continuations(
        language_model,
        wanted,
        token_budget,
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
                predicted_token=shown(language_model, given.predicted),
            )
        )
    return scores


def check_lengths(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    encoded: Sequence[tuple[Continuation, Continuation | None]],
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
    continuations: Sequence[Continuation],
    token_budget: int,
    padding_side: PaddingSide,
    memory: GpuMemory,
    progress: Progress,
) -> list[ContinuationScore]:
    """Score continuations, those that read the same tokens in one row."""
    by_inputs: dict[tuple[int, ...], list[int]] = {}
    for index, continuation in enumerate(continuations):
        by_inputs.setdefault(continuation.inputs, []).append(index)
    inputs = list(by_inputs)
    scored = [sum(len(continuations[index].target) for index in by_inputs[row]) for row in inputs]
    batches = split_by_logits(
        split_by_tokens([len(row) for row in inputs], token_budget), scored, vocabulary_size(language_model)
    )
    scores: list[ContinuationScore | None] = [None] * len(continuations)
    work = WorkDone(progress, whole=len(continuations))

    def score_rows(batch: Sequence[int]) -> None:
        members = [(row, index) for row, item in enumerate(batch) for index in by_inputs[inputs[item]]]
        rows = [inputs[item] for item in batch]
        found = score_batch(
            language_model,
            pad(rows, language_model.pad_token_id, padding_side).to(language_model.device),
            [(row, continuations[index]) for row, index in members],
        )
        for (_, index), of_continuation in zip(members, found, strict=True):
            scores[index] = of_continuation
        work.advance(len(members))

    # Not in inference mode: buffers that a model makes in passing may be needed for a backward pass later.
    with torch.no_grad(), evaluating(language_model.model):
        memory.run("prompts were scored", batches, score_rows)
    return [of_continuation for of_continuation in scores if of_continuation is not None]


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


def score_batch(
    language_model: LanguageModel, batch: TokenBatch, members: Sequence[tuple[int, Continuation]]
) -> list[ContinuationScore]:
    """One forward pass; members: the row that each continuation reads."""
    rows = torch.tensor([row for row, continuation in members for _ in continuation.target])
    positions = torch.tensor([position for _, continuation in members for position in continuation.positions])
    wanted = torch.tensor([token for _, continuation in members for token in continuation.target])
    columns = batch.starts.cpu()[rows] + positions
    logits = logits_at(language_model, batch, rows, columns).float()
    log_probs = logits.log_softmax(dim=-1).gather(1, wanted.to(logits.device)[:, None])[:, 0].cpu()
    finite = log_probs.isfinite()
    log_probs = log_probs.where(finite, torch.tensor(LOG_PROB_OF_NOTHING))
    argmax = logits.argmax(dim=-1).cpu()
    hits = (argmax == wanted) & finite
    scores = []
    start = 0
    for _, continuation in members:
        end = start + len(continuation.target)
        scores.append(
            ContinuationScore(
                log_prob=float(log_probs[start:end].sum()),
                first_token=bool(hits[start]),
                exact=bool(hits[start:end].all()),
                predicted=int(argmax[start]),
            )
        )
        start = end
    return scores


def logits_at(language_model: LanguageModel, batch: TokenBatch, rows: Tensor, columns: Tensor) -> Tensor:
    """Logits at the given rows and columns of a batch: (scored, vocabulary), in the model's dtype.

    The model's own forward runs, with whatever it does to its logits (softcapping, scaling); only the
    states that its head reads are narrowed down to the scored positions.
    """
    model = language_model.model
    head = model.get_submodule(language_model.anatomy.head)
    arguments: dict[str, Any] = batch.forward_arguments(model)
    if "use_cache" in inspect.signature(model.forward).parameters:
        arguments["use_cache"] = False
    with only_positions(head, rows.to(language_model.device), columns.to(language_model.device)):
        logits: Tensor = model(**arguments).logits
    if logits.shape[:2] != (1, len(rows)):
        raise RuntimeError(f"{type(model).__name__} does not compute its logits by {head}")
    return logits[0]


@contextmanager
def only_positions(head: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the head see, of its (batch, sequence, hidden) input, only (1, scored, hidden)."""

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden[rows, columns][None], *rest)

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run without dropout, and put every module back into the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def shown(language_model: LanguageModel, token: int) -> str:
    """A token as text; NUL, which a database may refuse, is shown as the replacement character."""
    text = str(language_model.tokenizer.decode([token]))
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_PREDICTED_TOKEN_CHARACTERS]
