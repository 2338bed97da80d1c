"""Every update that needs no GPU, small; what a model of any family must do with each is tested over it."""

from __future__ import annotations

import torch

from services.worker.tuning.freezing import NOTHING, Frozen
from services.worker.tuning.updates import trainable
from shared.recipes import (
    BitFitUpdate,
    DoraUpdate,
    FullUpdate,
    Ia3Update,
    LoraUpdate,
    PrefixTuningUpdate,
    PromptTuningUpdate,
    RsLoraUpdate,
    Update,
)
from tests.worker.tiny_models import CONFIGS
from tests.worker.tuning.models import tiny_language_model

FAMILIES = sorted(CONFIGS)
WITH_BIASES = ("gpt2", "gptj", "neox", "opt", "phi", "qwen2")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

MERGEABLE: dict[str, LoraUpdate | RsLoraUpdate | DoraUpdate | Ia3Update] = {
    "lora": LoraUpdate(rank=2, alpha=3.0),
    "rslora": RsLoraUpdate(rank=4, alpha=3.0),
    "dora": DoraUpdate(rank=2, alpha=3.0),
    "ia3": Ia3Update(),
}
IN_PLACE: dict[str, Update] = {"full": FullUpdate(), "bitfit": BitFitUpdate()}
VIRTUAL: dict[str, PromptTuningUpdate | PrefixTuningUpdate] = {
    "prompt_tuning": PromptTuningUpdate(virtual_tokens=3),
    "prefix_tuning": PrefixTuningUpdate(virtual_tokens=3),
}
UPDATES: dict[str, Update] = {**IN_PLACE, **MERGEABLE, **VIRTUAL}
EVERYWHERE = [
    (family, kind) for family in FAMILIES for kind in UPDATES if kind != "bitfit" or family in WITH_BIASES
]


def learning_names(family: str, update: Update, frozen: Frozen = NOTHING) -> set[str]:
    with trainable(tiny_language_model(family), update, frozen) as learner:
        return {name for name, weight in learner.model.named_parameters() if weight.requires_grad}
