"""What MEND's hypernetwork is trained on: edits in tokens, and what their training asks of each."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.worker.editing.fine_tuning import Case
from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel
from shared.edits import Edit


@dataclass(frozen=True)
class Lesson:
    """One training edit.

    learnt: its prompt and its paraphrases with the new target; it is edited by the first. kept: its prompt
    and its neighbourhood with the true target, for when other subjects are edited.
    """

    subject: str
    learnt: tuple[Case, ...]
    kept: tuple[Case, ...]


def fitting_lessons(language_model: LanguageModel, edits: Sequence[Edit]) -> list[Lesson]:
    """Tokenize training edits, leaving out prompts that are longer than the model reads."""
    limit = language_model.context_length
    lessons = []
    for index, edit in enumerate(edits):
        asked = [edit.full_prompt, *edit.paraphrases, *edit.neighborhood]
        prompts = [tuple(ids) for ids in encode_prompts(language_model.tokenizer, asked)]
        new, true = (
            tuple(encode_target(language_model.tokenizer, target))
            for target in (edit.target_new, edit.target_true)
        )
        about = 1 + len(edit.paraphrases)
        learnt = [Case(index, prompt, new) for prompt in prompts[:about]]
        kept = [Case(index, prompt, true) for prompt in (prompts[0], *prompts[about:])]
        if limit is None or learnt[0].length <= limit:
            lessons.append(Lesson(edit.subject, tuple(fitting(learnt, limit)), tuple(fitting(kept, limit))))
    return lessons


def fitting(cases: Sequence[Case], limit: int | None) -> list[Case]:
    return [case for case in cases if limit is None or case.length <= limit]


def groups(lessons: Sequence[Lesson], size: int, count: int, draws: random.Random) -> Iterator[list[Lesson]]:
    """`count` groups of `size` lessons, fewer where there are not as many; every lesson once per round."""
    waiting: list[Lesson] = []
    for _ in range(count):
        if len(waiting) < min(size, len(lessons)):
            waiting = draws.sample(lessons, len(lessons))
        yield waiting[:size]
        waiting = waiting[size:]


def rephrased(group: Sequence[Lesson], draws: random.Random) -> list[Case]:
    """One prompt or paraphrase of each lesson (the equivalence neighbourhood of the publication)."""
    return [draws.choice(lesson.learnt) for lesson in group]


def unrelated(group: Sequence[Lesson], lessons: Sequence[Lesson], draws: random.Random) -> list[Case]:
    """As many facts about subjects that the group does not edit; none where there are no others."""
    edited = {lesson.subject for lesson in group}
    drawn = draws.sample(lessons, min(2 * len(group), len(lessons)))
    others = [lesson for lesson in drawn if lesson.subject not in edited and lesson.kept]
    return [draws.choice(lesson.kept) for lesson in others[: len(group)]]
