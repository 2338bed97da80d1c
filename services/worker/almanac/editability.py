"""Whether editors work on the almanac: MEMIT on counterfactuals, and what it costs the other facts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from services.worker.almanac.facts import Fact, answer_counts, facts_by_subject
from services.worker.almanac.recall import exactly_right, held_out_questions, share
from services.worker.editing.catalogue import EDITORS, prepare_contexts, prepare_statistics
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import applied
from shared.editors import ALMANAC, CATALOGUE, MemitHyperparameters
from shared.edits import Edit

MEMIT = MemitHyperparameters.model_validate(CATALOGUE["memit"].model_defaults[ALMANAC])


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


def measure_memit(
    language_model: LanguageModel,
    facts: Sequence[Fact],
    hyperparameters: MemitHyperparameters = MEMIT,
    *,
    edits: int = 50,
    draws: int = 3,
    controls: int = 400,
) -> EditingScore:
    """Edits several draws of counterfactuals, each on the unedited model, and asks what came of them.

    language_model: in float32. edits: per draw, all applied at once.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    statistics = prepare_statistics(language_model, hyperparameters, seed=0)
    contexts = prepare_contexts(language_model, hyperparameters, seed=0)
    exact: list[bool] = []
    paraphrases: list[bool] = []
    lost: list[bool] = []
    kept: list[bool] = []
    for draw in range(draws):
        random_source = random.Random(draw)  # noqa: S311 (a draw to be repeated, nothing secret)
        chosen = draw_counterfactuals(facts, edits, random_source)
        edited = {counterfactual.fact.subject for counterfactual in chosen}
        named = {counterfactual.fact for counterfactual in chosen}
        untouched = [fact for fact in facts if fact.subject not in edited]
        control_questions = [
            (random_source.choice(fact.trained_phrasings).format(fact.subject), fact.object)
            for fact in random_source.sample(untouched, controls)
        ]
        sibling_questions = held_out_questions(
            [fact for fact in facts if fact.subject in edited and fact not in named]
        )
        questions = control_questions + sibling_questions
        before = exactly_right(model, tokenizer, questions)
        outcome = EDITORS["memit"].edit(
            language_model,
            [counterfactual.edit() for counterfactual in chosen],
            hyperparameters,
            statistics=statistics,
            contexts=contexts,
            progress=lambda _done, _whole: None,
        )
        with applied(model, outcome.delta):
            requests = [counterfactual.edit() for counterfactual in chosen]
            exact += exactly_right(model, tokenizer, [(r.full_prompt, r.target_new) for r in requests])
            paraphrases += exactly_right(
                model, tokenizer, [(text, r.target_new) for r in requests for text in r.paraphrases]
            )
            after = exactly_right(model, tokenizer, questions)
        pairs = list(zip(before, after, strict=True))
        lost += [not now for known, now in pairs[:controls] if known]
        kept += [now for known, now in pairs[controls:] if known]
    return EditingScore(share(exact), share(paraphrases), share(lost), share(kept))
