"""Adapters of peft beside linear projections: LoRA, rsLoRA, DoRA and IA³."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft import IA3Config, IA3Model, LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers.pytorch_utils import Conv1D

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import restored
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.updates.learner import Learner
from services.worker.tuning.updates.merging import merged
from services.worker.tuning.updates.precision import (
    casts_to_bfloat16,
    learning_dtype,
    stands_in_float32,
)
from services.worker.tuning.updates.targets import adapted_projections, rescaled_projections
from shared.recipes import DoraUpdate, Ia3Update, LoraUpdate, QloraUpdate, RsLoraUpdate
from shared.recipes.updates import Precision

NAME = "default"  # peft's own for the one adapter of a model


@contextmanager
def adapters_learning(
    language_model: LanguageModel,
    update: LoraUpdate | RsLoraUpdate | DoraUpdate | Ia3Update,
    frozen: Frozen,
    precision: Precision,
) -> Iterator[Learner]:
    """Adapters learn, in float32, at the targets that are not frozen; the model's weights stay.

    Probes run with the adapters beside the weights, or merged into them where the update says so.
    """
    model = language_model.model
    float32 = stands_in_float32(language_model, precision)
    # No parameter of the base may change, so none is copied; `restored` sees to the modes.
    with (
        restored(model, {}),
        learning_dtype(language_model, update, float32=float32) as in_deployed_dtype,
        injected(language_model, update, frozen) as tuner,
    ):

        @contextmanager
        def as_deployed() -> Iterator[None]:
            with in_deployed_dtype():
                if update.merged:
                    with merged(tuner):
                        yield
                else:
                    yield

        yield Learner(model, as_deployed, casts_to_bfloat16(precision))


@contextmanager
def injected(
    language_model: LanguageModel,
    update: LoraUpdate | RsLoraUpdate | DoraUpdate | Ia3Update | QloraUpdate,
    frozen: Frozen,
) -> Iterator[BaseTuner]:
    """Put adapters into the model itself, in float32, and take them out again afterwards."""
    tuner = put_in(language_model, update, frozen)
    try:
        for parameter in language_model.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        yield tuner
    finally:
        tuner.unload()


def put_in(
    language_model: LanguageModel,
    update: LoraUpdate | RsLoraUpdate | DoraUpdate | Ia3Update | QloraUpdate,
    frozen: Frozen,
) -> BaseTuner:
    """Put adapters into the model itself, in whatever dtype peft gives them."""
    model = language_model.model
    if isinstance(update, Ia3Update):
        scaled, inner = rescaled_projections(language_model, update, frozen)
        return IA3Model(
            model,
            IA3Config(
                target_modules=list(scaled),
                feedforward_modules=inner,
                fan_in_fan_out=stored_transposed(scaled),
            ),
            NAME,
        )
    targets = adapted_projections(language_model, update, frozen)
    return LoraModel(model, low_rank_configuration(update, targets), NAME)


def low_rank_configuration(
    update: LoraUpdate | RsLoraUpdate | DoraUpdate | QloraUpdate, targets: dict[str, nn.Module]
) -> LoraConfig:
    """The update in peft's words."""
    return LoraConfig(
        r=update.rank,
        lora_alpha=update.alpha,  # type: ignore[arg-type]  # declared an integer, but only divided by the rank
        lora_dropout=update.dropout,
        use_rslora=isinstance(update, RsLoraUpdate),
        use_dora=isinstance(update, DoraUpdate),
        target_modules=list(targets),
        fan_in_fan_out=stored_transposed(targets),
        bias="none",
    )


def stored_transposed(modules: dict[str, nn.Module]) -> bool:
    """Whether these layers keep their weights as (in, out), as GPT-2 does."""
    return any(isinstance(module, Conv1D) for module in modules.values())
