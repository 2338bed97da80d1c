"""What a model answers by itself, where it does not answer what is expected."""

from __future__ import annotations

from collections.abc import Sequence

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, untold
from services.worker.probing.encoded_answers import encode_answers
from services.worker.probing.generation import write_greedily
from services.worker.probing.scoring import readable
from shared.measurement import Probe


def greedy_answers(
    language_model: LanguageModel,
    probes: Sequence[Probe],
    *,
    token_budget: int = 8192,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> list[str]:
    """The text that greedy decoding gives for each probe, as many tokens as its answer has.

    It stops where the text ends. The prompts are encoded as `score` encodes them; they must fit into the
    model with their answers.
    """
    pairs = [answer for answer, _ in encode_answers(language_model, probes)]
    written = write_greedily(
        language_model,
        [pair.prompt for pair in pairs],
        [len(pair.target) for pair in pairs],
        token_budget=token_budget,
        progress=progress,
        memory=memory,
    )
    return [as_text(language_model, tokens) for tokens in written]


def as_text(language_model: LanguageModel, tokens: Sequence[int]) -> str:
    """An answer up to the end of the text, which is shown only where nothing comes before it."""
    end = language_model.tokenizer.eos_token_id
    ends = [place for place, token in enumerate(tokens) if token == end and place > 0]
    return readable(str(language_model.tokenizer.decode(list(tokens[: ends[0] if ends else None])))).strip()
