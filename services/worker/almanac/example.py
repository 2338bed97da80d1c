"""Edits and control facts for the example audit, from what the almanac knows.

`python -m services.worker.almanac.example` prints them as JSON, in the fields of an audit request.
"""

import json
import random
import sys
from collections.abc import Sequence
from typing import Any

from services.worker.almanac import MODEL_DIRECTORY
from services.worker.almanac.editability import Counterfactual, draw_counterfactuals
from services.worker.almanac.facts import Fact, load_facts
from services.worker.almanac.recall import exactly_right, trained_questions
from services.worker.language_models.loading import load_language_model

EDITS = 24
CONTROLS = 60
NEIGHBORS = 4
SEED = 7


def known_facts() -> list[Fact]:
    """The facts that the shipped model answers right in every trained phrasing."""
    language_model = load_language_model(
        MODEL_DIRECTORY, reference="builtin:almanac", revision="shipped", dtype="float32"
    )
    facts = load_facts()
    questions = trained_questions(facts)
    right = exactly_right(language_model.model, language_model.tokenizer, questions)
    wrong = {question for question, hit in zip(questions, right, strict=True) if not hit}
    return [fact for fact in facts if wrong.isdisjoint(trained_questions([fact]))]


def spread_over_relations(facts: Sequence[Fact], count: int, source: random.Random) -> list[Counterfactual]:
    """Counterfactuals of `count` subjects, the relations taken in turn."""
    pool: dict[str, list[Counterfactual]] = {}
    subjects = len({fact.subject for fact in facts})
    for counterfactual in draw_counterfactuals(facts, subjects, source):
        pool.setdefault(counterfactual.fact.relation, []).append(counterfactual)
    turns = [
        counterfactual
        for turn in range(count)
        for relation in sorted(pool)
        for counterfactual in pool[relation][turn : turn + 1]
    ]
    return turns[:count]


def neighborhood(fact: Fact, prompt: str, facts: Sequence[Fact], source: random.Random) -> list[str]:
    """Complete prompts on other subjects of the relation that have the same object."""
    others = [
        other.subject
        for other in facts
        if other.relation == fact.relation and other.object == fact.object and other != fact
    ]
    return [prompt.format(other) for other in source.sample(others, min(NEIGHBORS, len(others)))]


def example_counterfactuals(facts: Sequence[Fact], count: int = EDITS) -> list[Counterfactual]:
    return spread_over_relations(facts, count, random.Random(SEED))  # noqa: S311 (no secret)


def example_edits(facts: Sequence[Fact] | None = None, *, count: int = EDITS) -> list[dict[str, Any]]:
    """Counterfactual edits of real facts, in the fields of `shared.edits.Edit`.

    facts: those to choose from; default: those the model answers right in every trained phrasing.
    """
    chosen = known_facts() if facts is None else facts
    source = random.Random(SEED)  # noqa: S311 (no secret)
    edits = []
    for counterfactual in example_counterfactuals(chosen, count):
        edit = counterfactual.edit().model_dump(mode="json", exclude={"portability"})
        edit["neighborhood"] = neighborhood(counterfactual.fact, counterfactual.prompt, chosen, source)
        edits.append(edit)
    return edits


def example_controls(
    facts: Sequence[Fact] | None = None, *, edits_made: int = EDITS, count: int = CONTROLS
) -> list[dict[str, Any]]:
    """Facts of the edits' relations about other subjects, in the fields of `shared.edits.ControlFact`.

    facts: as for `example_edits`; edits_made: how many edits they go with. A control's alternative is
    another object of its relation.
    """
    chosen = known_facts() if facts is None else facts
    edits = example_edits(chosen, count=edits_made)
    relations = {edit["relation"] for edit in edits}
    prompts = [
        prompt for edit in edits for prompt in (edit["prompt"].format(edit["subject"]), *edit["neighborhood"])
    ]
    source = random.Random(SEED + 1)  # noqa: S311 (no secret)
    candidates = [
        fact
        for fact in chosen
        if fact.relation in relations and not any(fact.subject in prompt for prompt in prompts)
    ]
    return [
        {
            "prompt": control.prompt,
            "subject": control.fact.subject,
            "answer": control.fact.object,
            "alternative": control.target_new,
            "relation": control.fact.relation,
        }
        for control in spread_over_relations(candidates, count, source)
    ]


def main() -> None:
    facts = known_facts()
    content = {"edits": example_edits(facts), "controls": example_controls(facts)}
    json.dump(content, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
