"""The mode `contains`: whether a model comes to an answer by itself within so many tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, untold
from services.worker.probing.encoded_answers import encode_answers
from services.worker.probing.generation import end_of_text, write_greedily
from shared.edits import normal
from shared.measurement import Probe, ProbeKind, ProbeScore

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # stands for a character whose last bytes are yet to come
MOST_BYTES = 4  # of a character in UTF-8, each of which may be a token


def with_contains(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    scores: Sequence[ProbeScore],
    new_tokens: int,
    *,
    token_budget: int = 8192,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> list[ProbeScore]:
    """The scores, with `contains` in those of the facts' own prompts: edits and controls alike.

    An answer is contained when greedy decoding writes all of it within `new_tokens` tokens, upper and lower
    case, compatible characters (NFKC) and white space apart, and not as a part of longer words: where the
    tokens end with the answer, the next character is written as well, to see whether its word goes on. The
    prompts are encoded as `score` encodes them; each is continued once, and no further than until every
    answer that is wanted of it has been found.
    """
    own = [index for index, probe in enumerate(probes) if probe.probe_kind is ProbeKind.REWRITE]
    encoded = encode_answers(language_model, [probes[index] for index in own])
    asked: dict[tuple[int, ...], set[str]] = {}
    for index, (pair, _) in zip(own, encoded, strict=True):
        asked.setdefault(pair.prompt, set()).add(probes[index].answer)
    prompts, wanted = list(asked), list(asked.values())
    ends = end_of_text(language_model)

    def text_of(tokens: Sequence[int]) -> str:
        return str(language_model.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def settled(index: int, tokens: Sequence[int]) -> bool:
        text = text_of(tokens)
        if len(tokens) > new_tokens:
            return not text.endswith(UNFINISHED)
        return all(contains(text.rstrip(UNFINISHED), answer, unfinished=True) for answer in wanted[index])

    def answered(tokens: Sequence[int], answer: str) -> bool:
        within, text = text_of(tokens[:new_tokens]), text_of(tokens)
        ended = bool(tokens) and tokens[-1] in ends
        cut = not ended and (len(tokens) <= new_tokens or text.endswith(UNFINISHED))
        return contains(within, answer) and contains(text.rstrip(UNFINISHED), answer, unfinished=cut)

    written = write_greedily(
        language_model,
        prompts,
        [new_tokens + MOST_BYTES] * len(prompts),
        settled,
        token_budget=token_budget,
        progress=progress,
        memory=memory,
    )
    continued = dict(zip(prompts, written, strict=True))
    found = list(scores)
    for index, (pair, _) in zip(own, encoded, strict=True):
        contained = answered(continued[pair.prompt], probes[index].answer)
        found[index] = replace(found[index], contains=contained)
    return found


def contains(text: str, answer: str, *, unfinished: bool = False) -> bool:
    """Whether the whole answer is in the text; unfinished: the last word of the text may yet go on."""
    said = normal(text)
    match = whole(answer).search(said)
    return match is not None and not (unfinished and match.end() == len(said))


@cache
def whole(answer: str) -> re.Pattern[str]:
    """The answer where no longer word holds it, as "Niger" is held by "Nigeria".

    A letter without case (Chinese, Thai, …) may stand beside its like: there words are not set apart.
    """
    wanted = normal(answer)
    before, after = (
        border if re.match(r"\w", edge) and unicodedata.category(edge) != "Lo" else ""
        for edge, border in ((wanted[0], r"(?<!\w)"), (wanted[-1], r"(?!\w)"))
    )
    return re.compile(f"{before}{re.escape(wanted)}{after}")
