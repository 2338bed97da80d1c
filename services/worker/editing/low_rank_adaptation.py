"""LoRA: low-rank adapters, trained on the edits and merged (Hu et al. 2021, arXiv 2106.09685)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.fine_tuning import descend, edit_cases, loss_at_target_tokens
from services.worker.language_models.anatomy import Anatomy
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import LowRank, WeightDelta, restored
from shared.editors import LoraHyperparameters
from shared.edits import Edit

ADAPTER = "edits"


class LowRankAdaptation:
    """The editor `lora`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: LoraHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        cases = edit_cases(language_model, edits)
        targets = adapted_projections(language_model.anatomy, layers, hyperparameters.targets)
        with adapters(language_model.model, targets, hyperparameters) as adapted:
            parameters = [factor for adapter in adapted.values() for factor in factors(adapter)]
            losses = descend(language_model, cases, parameters, hyperparameters, loss_at_target_tokens, run)
            deltas = {f"{path}.weight": merged(adapter) for path, adapter in adapted.items()}
        for name, delta in deltas.items():
            run.trace.keep(name, delta.dense(language_model.device))
        return EditOutcome(
            modification=WeightDelta(deltas, language_model.revision),
            edited_layers=layers,
            losses=(losses,),
            shared_loss=True,
        )


def adapted_projections(anatomy: Anatomy, layers: Sequence[int], targets: str) -> list[str]:
    """Paths of the linear projections in the attention, the MLP, or all, of these blocks."""
    found: list[str] = []
    for layer in layers:
        if targets != "mlp":
            found += [*anatomy.attention_inputs[layer], anatomy.attention_outputs[layer]]
        if targets != "attention":
            found += [*anatomy.mlp_up_projections[layer], anatomy.mlp_down_projections[layer]]
    return found


@contextmanager
def adapters(
    model: nn.Module, targets: Sequence[str], hyperparameters: LoraHyperparameters
) -> Iterator[Mapping[str, LoraLayer]]:
    """Put fresh float32 adapters beside the projections while the context lasts; gives them by path.

    The weights themselves are left alone throughout.
    """
    configuration = LoraConfig(
        r=hyperparameters.rank,
        lora_alpha=hyperparameters.alpha,  # type: ignore[arg-type]  # declared an integer, only divided
        target_modules=list(targets),
        fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
    )
    generator = torch.Generator().manual_seed(hyperparameters.seed)
    with restored(model, {}), torch.random.fork_rng(devices=[]):
        tuner = LoraModel(model, configuration, ADAPTER)
        try:
            adapted = {path: lora_layer(model, path) for path in targets}
            for adapter in adapted.values():
                start_(adapter, generator)
            yield adapted
        finally:
            tuner.unload()


def lora_layer(model: nn.Module, path: str) -> LoraLayer:
    module = model.get_submodule(path)
    if not isinstance(module, LoraLayer):
        raise TypeError(f"{path} has no adapter")
    return module


def factors(adapter: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """A, (rank, in), and B, (out, rank)."""
    first, second = adapter.lora_A[ADAPTER], adapter.lora_B[ADAPTER]
    return first.get_parameter("weight"), second.get_parameter("weight")


@torch.no_grad()
def start_(adapter: LoraLayer, generator: torch.Generator) -> None:
    """A drawn as linear layers are, from a CPU generator, so that every device gets the same; B = 0."""
    first, second = factors(adapter)
    bound = 1 / math.sqrt(first.shape[1])
    first.data = torch.empty(first.shape).uniform_(-bound, bound, generator=generator).to(first.device)
    second.data = torch.zeros(second.shape, device=second.device)


@torch.no_grad()
def merged(adapter: LoraLayer) -> LowRank:
    """ΔW = (α / rank) B A, in the parameter's layout, as factors on the CPU."""
    first, second = (factor.detach().cpu() for factor in factors(adapter))
    scaled = second * adapter.scaling[ADAPTER]
    if isinstance(adapter.get_base_layer(), Conv1D):
        return LowRank(first.T.contiguous(), scaled.T.contiguous())
    return LowRank(scaled.contiguous(), first.contiguous())
