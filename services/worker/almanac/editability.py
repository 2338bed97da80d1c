"""Whether editors work on the almanac: counterfactuals, and what they cost the other facts.

`python -m services.worker.almanac.editability memit` prints the shares that an editor reaches.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from services.worker.almanac import MODEL_DIRECTORY
from services.worker.almanac.facts import Fact, answer_counts, facts_by_subject, load_facts
from services.worker.almanac.recall import exactly_right, held_out_questions, share
from services.worker.editing.catalogue import EDITORS, prepare_materials
from services.worker.editing.editor import EditingRun
from services.worker.language_models.loading import LanguageModel, load_language_model
from shared.editors import ALMANAC, CATALOGUE, Hyperparameters
from shared.edits import Edit


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """A fact and the object it is to have instead, asked in one of its trained phrasings."""

    fact: Fact
    prompt: str
    target_new: str

    def edit(self) -> Edit:
        """The edit, with all other phrasings as its paraphrases."""
        return Edit(
            prompt=self.prompt,
            subject=self.fact.subject,
            target_new=self.target_new,
            target_true=self.fact.object,
            paraphrases=tuple(
                phrasing.format(self.fact.subject)
                for phrasing in self.fact.phrasings
                if phrasing != self.prompt
            ),
            relation=self.fact.relation,
        )


@dataclass(frozen=True, slots=True)
class EditingScore:
    """Shares, each over every draw together.

    exact: edits that hold in their own prompt; paraphrases: the same over all other phrasings; controls_lost:
    of the control facts that the base answers right; siblings_kept: of the other facts of edited subjects
    that the base answers right.
    """

    exact: float
    paraphrases: float
    controls_lost: float
    siblings_kept: float


def draw_counterfactuals(
    facts: Sequence[Fact], count: int, random_source: random.Random
) -> list[Counterfactual]:
    """Counterfactuals of distinct subjects; an object is drawn from those of the relation, by frequency."""
    objects = answer_counts(list(facts))
    drawn = []
    for group in random_source.sample(list(facts_by_subject(list(facts)).values()), count):
        fact = random_source.choice(group)
        others = {answer: n for answer, n in objects[fact.relation].items() if answer != fact.object}
        [target] = random_source.choices(list(others), weights=list(others.values()))
        drawn.append(Counterfactual(fact, random_source.choice(fact.trained_phrasings), target))
    return drawn


def measure_editor(
    language_model: LanguageModel,
    facts: Sequence[Fact],
    editor: str,
    hyperparameters: Hyperparameters | None = None,
    *,
    edits: int = 50,
    draws: int = 3,
    controls: int = 400,
) -> EditingScore:
    """Edits several draws of counterfactuals, each on the unedited model, and asks what came of them.

    language_model: in float32. hyperparameters: the almanac's defaults where None. edits: per draw, all
    applied at once.
    """
    hyperparameters = hyperparameters or CATALOGUE[editor].settle(ALMANAC, {})
    drawn = [draw(facts, edits, controls, seed) for seed in range(draws)]
    materials = prepare_materials(
        language_model,
        hyperparameters,
        seed=0,
        training_edits=unmeasured_edits(facts, drawn),
        edits_to_make=edits,
    )
    exact: list[bool] = []
    paraphrases: list[bool] = []
    lost: list[bool] = []
    kept: list[bool] = []
    for one in drawn:
        before = answered(language_model, one.controls + one.siblings)
        outcome = EDITORS[editor].edit(language_model, one.edits, hyperparameters, materials, EditingRun())
        with outcome.modification.applied(language_model) as edited:
            exact += answered(edited, [(edit.full_prompt, edit.target_new) for edit in one.edits])
            paraphrases += answered(
                edited, [(text, edit.target_new) for edit in one.edits for text in edit.paraphrases]
            )
            after = answered(edited, one.controls + one.siblings)
        pairs = list(zip(before, after, strict=True))
        lost += [not now for known, now in pairs[:controls] if known]
        kept += [now for known, now in pairs[controls:] if known]
    return EditingScore(share(exact), share(paraphrases), share(lost), share(kept))


@dataclass(frozen=True, slots=True)
class Draw:
    """Edits to be made at once, questions about other subjects and about other facts of the same subjects.

    subjects: all that any of these is about.
    """

    edits: list[Edit]
    controls: list[tuple[str, str]]
    siblings: list[tuple[str, str]]
    subjects: frozenset[str]


def draw(facts: Sequence[Fact], edits: int, controls: int, seed: int) -> Draw:
    """Counterfactuals, and as many control questions as asked for."""
    random_source = random.Random(seed)  # noqa: S311 (a draw to be repeated, nothing secret)
    chosen = draw_counterfactuals(facts, edits, random_source)
    edited = {counterfactual.fact.subject for counterfactual in chosen}
    named = {counterfactual.fact for counterfactual in chosen}
    untouched = [fact for fact in facts if fact.subject not in edited]
    asked = random_source.sample(untouched, controls)
    return Draw(
        edits=[counterfactual.edit() for counterfactual in chosen],
        controls=[
            (random_source.choice(fact.trained_phrasings).format(fact.subject), fact.object) for fact in asked
        ],
        siblings=held_out_questions([fact for fact in facts if fact.subject in edited and fact not in named]),
        subjects=frozenset(edited | {fact.subject for fact in asked}),
    )


def unmeasured_edits(facts: Sequence[Fact], drawn: Sequence[Draw]) -> list[Edit]:
    """One counterfactual of every subject that nothing is asked about, for editors that are trained first."""
    measured = frozenset[str]().union(*(one.subjects for one in drawn))
    others = [fact for fact in facts if fact.subject not in measured]
    random_source = random.Random(len(drawn))  # noqa: S311 (a draw to be repeated, nothing secret)
    subjects = len({fact.subject for fact in others})
    return [edit.edit() for edit in draw_counterfactuals(others, subjects, random_source)]


def answered(language_model: LanguageModel, questions: Sequence[tuple[str, str]]) -> list[bool]:
    """For each (prompt, answer), whether the model answers exactly so, after whatever it puts before it."""
    asked = [(language_model.preamble(prompt) + prompt, answer) for prompt, answer in questions]
    return exactly_right(language_model.model, language_model.tokenizer, asked)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what shares of counterfactuals an editor reaches.")
    parser.add_argument("editor", choices=sorted(CATALOGUE))
    editor = parser.parse_args().editor
    language_model = load_language_model(
        MODEL_DIRECTORY, reference=ALMANAC, revision="measured", dtype="float32"
    )
    score = measure_editor(language_model, load_facts(), editor)
    for name, value in asdict(score).items():
        Console().print(f"{name}: {100 * value:.1f} %")


if __name__ == "__main__":
    main()
