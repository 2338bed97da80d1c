"""How a language model is asked for paraphrases of a prompt, and how its answer is read."""

import re

from shared.edits import Edit

MARKS = ' \t"“”`…'  # around a line: it is quoted, or left open
MORE_THAN_WANTED = 3  # proposals beyond those wanted, for not all will be usable

# What a causal model that follows no instructions goes on from.
EXAMPLES = (
    ("The Eiffel Tower stands in the city of", "The city where the Eiffel Tower stands is"),
    ("Marie Curie was born in", "The birthplace of Marie Curie is"),
    ("The language spoken in Brazil is", "In Brazil, people speak"),
    ("The headquarters of Nintendo is located in", "Nintendo has its headquarters in"),
)
INSTRUCTION = """Here is the beginning of a sentence:
{prompt}

Write {count} other beginnings that the same words would complete, each on a line of its own. Keep the name
"{subject}" exactly as it is. Do not complete any of them, do not say what completes them, and add nothing
else."""


def instruction(edit: Edit, count: int) -> str:
    """For a model that follows instructions: several paraphrases in one answer."""
    return INSTRUCTION.format(prompt=edit.full_prompt, count=count + MORE_THAN_WANTED, subject=edit.subject)


def few_shot_prompt(edit: Edit) -> str:
    """For a causal model that was only pre-trained: it goes on with one paraphrase and ends the line."""
    shown = [f"Sentence: {prompt}\nIn other words: {paraphrase}\n" for prompt, paraphrase in EXAMPLES]
    return "\n".join([*shown, f"Sentence: {edit.full_prompt}\nIn other words:"])


def rewriting_prompt(edit: Edit) -> str:
    """For a sequence-to-sequence model: the prefix that paraphrasers are commonly trained with."""
    return f"paraphrase: {edit.full_prompt}"


def lines_of(answer: str) -> list[str]:
    """The lines of an answer without their numbers, bullets and quotation marks."""
    lines = (re.sub(r"^\s*(?:\d+\s*[.):]|[-*•–])\s*", "", line) for line in answer.splitlines())
    return [line.strip(MARKS).removesuffix("...").strip(MARKS) for line in lines]


def first_line_of(continuation: str) -> str:
    """What a causal model went on with, up to the end of the line."""
    return lines_of(continuation.lstrip().split("\n", 1)[0] or " ")[0]
