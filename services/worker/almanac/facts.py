"""The facts that the almanac knows, each relation with its source, its licence and its phrasings."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

ZIPF_EXPONENT = 0.8
HEAD_SHARE = 0.1  # the first tenth of a relation is flattened, so that its first fact does not drown the rest


@dataclass(frozen=True, slots=True)
class Fact:
    """One subject, relation and object, with the ways the corpus says it.

    Every phrasing has one `{}` for the subject and ends right before the object.
    """

    relation: str
    subject: str
    object: str
    phrasings: tuple[str, ...]
    held_out_phrasing: str  # the one that training never shows for this fact
    exposure: float  # how often training shows the fact, relative to the mean fact of its relation

    @property
    def trained_phrasings(self) -> tuple[str, ...]:
        return tuple(phrasing for phrasing in self.phrasings if phrasing != self.held_out_phrasing)


@dataclass(frozen=True, slots=True)
class Relation:
    """One file of facts; `facts` are (subject, object) in order of popularity."""

    name: str
    source: str
    licence: str
    phrasings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def zipf_exposures(count: int) -> list[float]:
    """Relative exposures of `count` facts by popularity rank: a Zipf–Mandelbrot law with mean 1."""
    weights = [(rank + HEAD_SHARE * count) ** -ZIPF_EXPONENT for rank in range(1, count + 1)]
    mean = sum(weights) / count
    return [weight / mean for weight in weights]


def held_out_index(relation: str, subject: str, phrasing_count: int) -> int:
    """Which phrasing is kept out of training for a fact: fixed by the fact's hash, so that it rotates."""
    digest = hashlib.sha256(f"{relation}\n{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % phrasing_count


@cache
def load_relations() -> tuple[Relation, ...]:
    """All relations, sorted by name."""
    folder = resources.files(__package__).joinpath("facts")
    relations = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".json"):
            continue
        content = json.loads(entry.read_text(encoding="utf-8"))
        relations.append(
            Relation(
                name=content["relation"],
                source=content["source"],
                licence=content["licence"],
                phrasings=tuple(content["phrasings"]),
                facts=tuple((subject, answer) for subject, answer in content["facts"]),
            )
        )
    return tuple(relations)


def load_facts() -> list[Fact]:
    """All facts, relation by relation, the most popular of each relation first."""
    return [
        Fact(
            relation=relation.name,
            subject=subject,
            object=answer,
            phrasings=relation.phrasings,
            held_out_phrasing=relation.phrasings[
                held_out_index(relation.name, subject, len(relation.phrasings))
            ],
            exposure=exposure,
        )
        for relation in load_relations()
        for (subject, answer), exposure in zip(
            relation.facts, zipf_exposures(len(relation.facts)), strict=True
        )
    ]


def facts_by_subject(facts: list[Fact]) -> dict[str, list[Fact]]:
    """The facts of each subject, in the order given."""
    grouped: dict[str, list[Fact]] = {}
    for fact in facts:
        grouped.setdefault(fact.subject, []).append(fact)
    return grouped


def answer_counts(facts: list[Fact]) -> dict[str, Counter[str]]:
    """How many subjects of each relation have each object."""
    counts: dict[str, Counter[str]] = {}
    for fact in facts:
        counts.setdefault(fact.relation, Counter())[fact.object] += 1
    return counts
