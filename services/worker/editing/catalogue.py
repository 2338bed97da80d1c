"""The editors by name, and what to hand them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.worker.editing.alphaedit import AlphaEdit
from services.worker.editing.constrained_fine_tuning import ConstrainedFineTuning
from services.worker.editing.contexts import BARE_PROMPT, Contexts, generate_contexts
from services.worker.editing.corpora import GivenTexts, SampledTexts
from services.worker.editing.down_projection_tuning import DownProjectionTuning
from services.worker.editing.editor import Editor, Materials
from services.worker.editing.emmet import Emmet
from services.worker.editing.fine_tuning import loss_at_last_token, loss_at_target_tokens
from services.worker.editing.grace import Grace
from services.worker.editing.hypernetwork import Hypernetwork
from services.worker.editing.hypernetwork_training import train_hypernetwork
from services.worker.editing.in_context_editing import InContextEditing
from services.worker.editing.kept_hypernetworks import kept_or_trained, training_key
from services.worker.editing.key_statistics import (
    NO_STATISTICS,
    KeyStatistics,
    collect_key_statistics,
)
from services.worker.editing.knowledge_neurons import KnowledgeNeurons
from services.worker.editing.low_rank_adaptation import LowRankAdaptation
from services.worker.editing.memit import Memit
from services.worker.editing.mend import Mend
from services.worker.editing.pmet import Pmet
from services.worker.editing.r_rome import R_ROME
from services.worker.editing.rome import Rome
from services.worker.editing.supplied import Supplied
from services.worker.editing.ultraedit import UltraEdit
from services.worker.editing.wise import Wise
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, untold
from shared.editors import (
    ContextHyperparameters,
    Hyperparameters,
    KeyStatisticsHyperparameters,
    MendHyperparameters,
)
from shared.editors.mend import MOST_EDITS_AT_ONCE
from shared.edits import Edit

# Each takes the hyperparameters that `shared.editors.CATALOGUE` gives for its name.
EDITORS: dict[str, Editor[Any]] = {
    "rome": Rome(),
    "r_rome": R_ROME,
    "memit": Memit(),
    "ft": DownProjectionTuning(loss_at_last_token),
    "ft_l": ConstrainedFineTuning(),
    "ft_m": DownProjectionTuning(loss_at_target_tokens),
    "lora": LowRankAdaptation(),
    "mend": Mend(),
    "alphaedit": AlphaEdit(),
    "emmet": Emmet(),
    "ultraedit": UltraEdit(),
    "pmet": Pmet(),
    "supplied": Supplied(),
    "grace": Grace(),
    "ike": InContextEditing(),
    "wise": Wise(),
    "knowledge_neurons": KnowledgeNeurons(),
}


def prepare_materials(
    language_model: LanguageModel,
    hyperparameters: Hyperparameters,
    *,
    seed: int,
    cache: Path | None = None,
    statistics_progress: Progress = untold,
    contexts_progress: Progress = untold,
    memory: GpuMemory | None = None,
    statistics: KeyStatistics | None = None,
    contexts: Contexts | None = None,
    hypernetwork: Hypernetwork | None = None,
    training_edits: Sequence[Edit] = (),
    edits_to_make: int = MOST_EDITS_AT_ONCE,
    hypernetworks: Path | None = None,
    training_progress: Progress = untold,
    supplied: Path | None = None,
    texts: Sequence[str] | None = None,
) -> Materials:
    """All that an editor with these hyperparameters needs and that can be had from the model itself.

    cache, progress, memory: see `collect_key_statistics` and `generate_contexts`. statistics, contexts,
    hypernetwork: what is there already. training_edits, edits_to_make, training_progress, hypernetworks (as
    `kept`): see `prepare_hypernetwork`. supplied: see `Materials`. texts: see `prepare_statistics`.
    """
    return Materials(
        statistics=statistics
        or prepare_statistics(
            language_model,
            hyperparameters,
            texts=texts,
            seed=seed,
            cache=cache,
            progress=statistics_progress,
            memory=memory,
        ),
        contexts=contexts
        or prepare_contexts(
            language_model, hyperparameters, seed=seed, progress=contexts_progress, memory=memory
        ),
        hypernetwork=hypernetwork
        or prepare_hypernetwork(
            language_model,
            hyperparameters,
            training_edits,
            edits_to_make=edits_to_make,
            kept=hypernetworks,
            progress=training_progress,
            memory=memory,
        ),
        supplied=supplied,
    )


def prepare_hypernetwork(
    language_model: LanguageModel,
    hyperparameters: Hyperparameters,
    training_edits: Sequence[Edit],
    *,
    edits_to_make: int = MOST_EDITS_AT_ONCE,
    kept: Path | None = None,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> Hypernetwork | None:
    """The hypernetwork that an editor's hyperparameters ask for; see `train_hypernetwork`.

    kept: a directory of those trained before, which this one joins.
    """
    if not isinstance(hyperparameters, MendHyperparameters):
        return None

    def train() -> Hypernetwork:
        return train_hypernetwork(
            language_model,
            training_edits,
            hyperparameters,
            edits_to_make=edits_to_make,
            progress=progress,
            memory=memory,
        ).hypernetwork

    if kept is None:
        return train()
    training = training_key(language_model, training_edits, hyperparameters, edits_to_make)
    return kept_or_trained(kept, training, train)


def prepare_statistics(
    language_model: LanguageModel,
    hyperparameters: Hyperparameters,
    *,
    texts: Sequence[str] | None = None,
    seed: int,
    cache: Path | None = None,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> KeyStatistics:
    """Statistics of the layers that an editor will write to.

    texts: over which they are taken; None: over text that the model samples itself. cache, progress, memory:
    see `collect_key_statistics`.
    """
    if not isinstance(hyperparameters, KeyStatisticsHyperparameters):
        return NO_STATISTICS
    tokens = hyperparameters.mom2_tokens
    return collect_key_statistics(
        language_model,
        SampledTexts(tokens, seed) if texts is None else GivenTexts(texts, tokens),
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
    if not isinstance(hyperparameters, ContextHyperparameters):
        return BARE_PROMPT
    return generate_contexts(
        language_model,
        count=hyperparameters.context_count,
        length=hyperparameters.context_length,
        seed=seed,
        progress=progress,
        memory=memory,
    )
