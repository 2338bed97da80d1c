"""Paraphrases that a language model writes: one loaded here, or one behind the operator's endpoint."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from services.worker.editing.paraphrase_requests import (
    MORE_THAN_WANTED,
    few_shot_prompt,
    first_line_of,
    instruction,
    lines_of,
    rewriting_prompt,
)
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone
from services.worker.language_models.text_writer import TextWriter
from shared.edits import Edit

TOKENS_PER_PARAPHRASE = 48
CALLS_AT_ONCE = 8
SEEDS_APART = 1_000_003  # between two attempts; within one there is a seed for every batch


@dataclass(frozen=True)
class WrittenHere:
    """Paraphrases by a model that is loaded in this process; `name` is its reference."""

    name: str
    writer: TextWriter
    seed: int
    memory: GpuMemory = field(default_factory=GpuMemory)

    def propose(self, edits: Sequence[Edit], count: int, attempt: int, progress: Progress) -> list[list[str]]:
        """See `ParaphraseSource.propose`."""
        if self.writer.follows_instructions:
            asked = [instruction(edit, count) for edit in edits]
            tokens = TOKENS_PER_PARAPHRASE * (count + MORE_THAN_WANTED)
            answers = self._write(asked, 1, tokens, attempt, progress)
            return [[line for text in texts for line in lines_of(text)] for texts in answers]
        ask = rewriting_prompt if self.writer.rewrites else few_shot_prompt
        answers = self._write(
            [ask(edit) for edit in edits],
            count + MORE_THAN_WANTED,
            TOKENS_PER_PARAPHRASE,
            attempt,
            progress,
        )
        return [[first_line_of(text) for text in texts] for texts in answers]

    def _write(
        self, asked: Sequence[str], choices: int, tokens: int, attempt: int, progress: Progress
    ) -> list[list[str]]:
        seed = self.seed + attempt * SEEDS_APART
        return self.writer.write(asked, choices, tokens, seed=seed, progress=progress, memory=self.memory)


@dataclass(frozen=True)
class WrittenElsewhere:
    """Paraphrases by a model that answers one instruction at a time; several calls are under way at once.

    ask: given an instruction, the longest answer in tokens and a seed, the model's answer.
    """

    name: str
    ask: Callable[[str, int, int], str]
    seed: int

    def propose(self, edits: Sequence[Edit], count: int, attempt: int, progress: Progress) -> list[list[str]]:
        """See `ParaphraseSource.propose`; raises what `ask` raises."""
        work = WorkDone(progress, whole=len(edits))
        tokens = TOKENS_PER_PARAPHRASE * (count + MORE_THAN_WANTED)
        proposals: list[list[str]] = []
        pool = ThreadPoolExecutor(CALLS_AT_ONCE)
        try:
            seed = self.seed + attempt
            calls = [pool.submit(self.ask, instruction(edit, count), tokens, seed) for edit in edits]
            for call in calls:
                proposals.append(lines_of(call.result()))
                work.advance(1)
        finally:  # what is not under way yet is not begun when one fails, or when the step is interrupted
            pool.shutdown(wait=False, cancel_futures=True)
        return proposals
