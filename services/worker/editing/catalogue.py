"""The editors by name, and what to hand them."""

from pathlib import Path
from typing import Any

from services.worker.editing.constrained_fine_tuning import ConstrainedFineTuning
from services.worker.editing.contexts import BARE_PROMPT, Contexts, generate_contexts
from services.worker.editing.corpora import SampledTexts
from services.worker.editing.editor import Editor
from services.worker.editing.key_statistics import (
    NO_STATISTICS,
    KeyStatistics,
    collect_key_statistics,
)
from services.worker.editing.memit import Memit
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, untold
from shared.editors import Hyperparameters, MemitHyperparameters, TargetHyperparameters

# Each takes the hyperparameters that `shared.editors.CATALOGUE` gives for its name.
EDITORS: dict[str, Editor[Any]] = {
    "memit": Memit(),
    "ft_l": ConstrainedFineTuning(),
}


def prepare_statistics(
    language_model: LanguageModel,
    hyperparameters: Hyperparameters,
    *,
    seed: int,
    cache: Path | None = None,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> KeyStatistics:
    """Statistics of the layers that an editor will write to, over text that the model samples itself.

    cache, progress, memory: see `collect_key_statistics`.
    """
    if not isinstance(hyperparameters, MemitHyperparameters):
        return NO_STATISTICS
    return collect_key_statistics(
        language_model,
        SampledTexts(hyperparameters.mom2_tokens, seed),
        hyperparameters.edited_layers(len(language_model.anatomy.blocks)),
        token_budget=language_model.token_budget,
        cache=cache,
        progress=progress,
        memory=memory,
    )


def prepare_contexts(
    language_model: LanguageModel,
    hyperparameters: Hyperparameters,
    *,
    seed: int,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> Contexts:
    """The contexts that an editor's hyperparameters ask for; progress, memory: see `generate_contexts`."""
    if not isinstance(hyperparameters, TargetHyperparameters):
        return BARE_PROMPT
    return generate_contexts(
        language_model,
        count=hyperparameters.context_count,
        length=hyperparameters.context_length,
        seed=seed,
        progress=progress,
        memory=memory,
    )
