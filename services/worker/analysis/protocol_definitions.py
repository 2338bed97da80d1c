"""How CounterFact, zsRE and KnowEdit count, each metric by the definition of its publication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import exp

from shared.measurement import ProbeKind, ProbeScore

# What a prompt counts, by its score and that of the base model; None where it does not count.
Rate = Callable[[ProbeScore, ProbeScore | None], float | None]


@dataclass(frozen=True)
class Definition:
    """One metric: which probes it is taken of, and how each counts. A record is the mean over its probes.

    Every prompt weighs the same, however many tokens its answer has.
    """

    protocol: str
    name: str
    kinds: tuple[ProbeKind, ...]
    rate: Rate
    mode: str
    how: str
    source: str
    signed: bool = False  # from −1 to 1, not from 0 to 1


def prefers_answer(score: ProbeScore, _: ProbeScore | None) -> float | None:
    """Whether the answer has the higher mean log-probability per token."""
    likelihoods = per_token(score)
    return None if likelihoods is None else float(likelihoods[0] > likelihoods[1])


def gap_in_probability(score: ProbeScore, _: ProbeScore | None) -> float | None:
    """Probability of the answer − that of the alternative, geometric means over their tokens."""
    likelihoods = per_token(score)
    return None if likelihoods is None else exp(likelihoods[0]) - exp(likelihoods[1])


def per_token(score: ProbeScore) -> tuple[float, float] | None:
    """Mean log-probability per token of the answer and of the alternative."""
    if score.log_prob_alternative is None or not (score.answer_tokens and score.alternative_tokens):
        return None
    return (
        score.log_prob_answer / score.answer_tokens,
        score.log_prob_alternative / score.alternative_tokens,
    )


def tokens_right(score: ProbeScore, _: ProbeScore | None) -> float | None:
    """Share of the answer's tokens that are the argmax under teacher forcing."""
    if score.answer_hits is None or not score.answer_tokens:
        return None
    return score.answer_hits / score.answer_tokens


def tokens_unchanged(score: ProbeScore, base: ProbeScore | None) -> float | None:
    """Share of the positions of the answer at which the argmax is the base model's."""
    if base is None or not score.predictions or not base.predictions:
        return None
    now, before = score.predictions.split(), base.predictions.split()
    return sum(one == other for one, other in zip(now, before, strict=True)) / len(now)


OWN, OTHER_WORDS, NEIGHBOURS = (ProbeKind.REWRITE,), (ProbeKind.PARAPHRASE,), (ProbeKind.NEIGHBORHOOD,)
OUT_OF_SCOPE = (ProbeKind.NEIGHBORHOOD, ProbeKind.SAME_SUBJECT)
COUNTERFACT = "Meng et al. 2022, arXiv 2202.05262, section 3.3; scored as in the authors' code"
ZSRE = "Meng et al. 2022, arXiv 2202.05262, section 3.2; after Mitchell et al. 2022, arXiv 2110.11309"
KNOWEDIT = "Zhang et al. 2024, arXiv 2401.01286, section 4; scored as in EasyEdit"

likelier = partial(
    Definition,
    "CounterFact",
    rate=prefers_answer,
    mode="higher mean log-probability per token",
    source=COUNTERFACT,
)
magnitude = partial(
    Definition,
    "CounterFact",
    rate=gap_in_probability,
    mode="difference of probabilities, geometric means over tokens",
    source=COUNTERFACT,
    signed=True,
)
accuracy = partial(
    Definition,
    rate=tokens_right,
    mode="share of the answer's tokens that are the argmax under teacher forcing",
)
DEFINITIONS = (
    likelier("ES", OWN, how="target_new over target_true on the edit's prompt"),
    likelier("PS", OTHER_WORDS, how="target_new over target_true on paraphrases"),
    likelier("NS", NEIGHBOURS, how="target_true over target_new on neighbourhood prompts"),
    magnitude("EM", OWN, how="P[target_new] − P[target_true] on the edit's prompt"),
    magnitude("PM", OTHER_WORDS, how="P[target_new] − P[target_true] on paraphrases"),
    magnitude("NM", NEIGHBOURS, how="P[target_true] − P[target_new] on neighbourhood prompts"),
    accuracy("zsRE", "Efficacy", OWN, how="target_new on the edit's prompt", source=ZSRE),
    accuracy("zsRE", "Paraphrase", OTHER_WORDS, how="target_new on paraphrases", source=ZSRE),
    accuracy("zsRE", "Specificity", NEIGHBOURS, how="target_true on neighbourhood prompts", source=ZSRE),
    accuracy("KnowEdit", "Edit success", OWN, how="target_new on the edit's prompt", source=KNOWEDIT),
    accuracy(
        "KnowEdit", "Portability", (ProbeKind.PORTABILITY,), how="what follows from the edit", source=KNOWEDIT
    ),
    Definition(
        "KnowEdit",
        "Locality",
        OUT_OF_SCOPE,
        rate=tokens_unchanged,
        mode="share of the answer's positions at which the argmax under teacher forcing is the base model's",
        how="on neighbourhood prompts and on what else is known of the subject",
        source=KNOWEDIT,
    ),
)
# Harmonic means of three of the above.
SCORES = (
    ("CounterFact", "S", ("ES", "PS", "NS"), COUNTERFACT),
    ("zsRE", "Score", ("Efficacy", "Paraphrase", "Specificity"), ZSRE),
)
