"""Where a decoder keeps its parts, found by inspecting its module tree rather than by its name."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class UnsupportedModel(Exception):
    """A model in which a part that edits and audits need cannot be found; `missing` names the part."""

    def __init__(self, model_class: str, missing: str) -> None:
        super().__init__(f"{model_class} is not supported: {missing}")
        self.model_class = model_class
        self.missing = missing


@dataclass(frozen=True)
class Anatomy:
    """Dotted paths of a decoder's parts; tuples have one entry per block, in order.

    The MLP of a block that has no module of its own (OPT) is its down-projection: both have the same
    output.
    """

    blocks: tuple[str, ...]
    mlp_down_projections: tuple[str, ...]
    mlps: tuple[str, ...]
    attentions: tuple[str, ...]
    embedding: str
    final_norm: str
    head: str
    tied_head: bool


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the blocks, MLPs, attentions, embedding, final norm and head of a decoder.

    Raises UnsupportedModel, naming what is missing, for anything but a dense decoder.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UnsupportedModel(name, "it is not a decoder with a language-modelling head")
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(embedding, nn.Embedding):
        raise UnsupportedModel(name, "it has no token embedding")
    if not isinstance(head, nn.Linear):
        raise UnsupportedModel(name, "it has no linear language-modelling head")

    text_config = model.config.get_text_config(decoder=True)
    hidden_size = int(text_config.hidden_size)
    block_list = find_block_list(model, int(text_config.num_hidden_layers))
    if block_list is None:
        raise UnsupportedModel(name, "its list of decoder blocks cannot be told apart")
    blocks = [module for _, module in model.get_submodule(block_list).named_children()]
    attentions, mlps, down_projections = [], [], []
    for index, block in enumerate(blocks):
        path = f"{block_list}.{index}"
        attention = find_attention(block)
        if attention is None:
            raise UnsupportedModel(name, f"block {index} has no attention module, or several")
        if any(parameter.dim() > 2 for parameter in block.parameters()):
            raise UnsupportedModel(name, f"the MLP of block {index} is a mixture of experts")
        down_projection = find_down_projection(block, attention, hidden_size)
        if down_projection is None:
            raise UnsupportedModel(name, f"block {index} has no MLP down-projection, or several")
        attentions.append(f"{path}.{attention}")
        mlps.append(f"{path}.{down_projection.split('.')[0]}")
        down_projections.append(f"{path}.{down_projection}")

    final_norm = find_final_norm(model, block_list)
    if final_norm is None:
        raise UnsupportedModel(name, "it has no norm after its last block")
    return Anatomy(
        blocks=tuple(f"{block_list}.{index}" for index in range(len(blocks))),
        mlp_down_projections=tuple(down_projections),
        mlps=tuple(mlps),
        attentions=tuple(attentions),
        embedding=path_of(model, embedding),
        final_norm=final_norm,
        head=path_of(model, head),
        tied_head=head.weight is embedding.weight,
    )


def down_projection_weight(model: nn.Module, anatomy: Anatomy, layer: int) -> tuple[nn.Parameter, bool]:
    """The weight of one block's MLP down-projection, and whether it is stored transposed.

    Returns (in, out) and True for GPT-2's Conv1D, (out, in) and False for a linear layer.
    """
    module = model.get_submodule(anatomy.mlp_down_projections[layer])
    weight = module.weight
    if not isinstance(weight, nn.Parameter):
        raise TypeError(f"the weight of {anatomy.mlp_down_projections[layer]} is not a parameter")
    return weight, isinstance(module, Conv1D)


def find_block_list(model: nn.Module, block_count: int) -> str | None:
    """Path of the one outermost module list with `block_count` entries, or None."""
    found = [
        path
        for path, module in outermost_module_lists(model)
        if len(module) == block_count and any(True for _ in module.parameters())
    ]
    return found[0] if len(found) == 1 else None


def outermost_module_lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for child_name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield f"{prefix}{child_name}", child
        else:
            yield from outermost_module_lists(child, f"{prefix}{child_name}.")


def find_attention(block: nn.Module) -> str | None:
    """Name of the one child of a block that is its attention (it has weights and says so), or None."""
    found = [
        name
        for name, child in block.named_children()
        if ("attn" in name or "attention" in name) and next(linear_layers(child), None) is not None
    ]
    return found[0] if len(found) == 1 else None


def find_down_projection(block: nn.Module, attention: str, hidden_size: int) -> str | None:
    """Path, inside a block, of the one layer that writes the MLP's inner state back to the hidden state."""
    writers = [
        (path, inputs)
        for path, inputs, outputs in linear_layers(block)
        if outputs == hidden_size and path.split(".")[0] != attention
    ]
    narrowing = [path for path, inputs in writers if inputs != hidden_size]
    if narrowing:
        return narrowing[0] if len(narrowing) == 1 else None
    # The inner state is as wide as the hidden one: the layer that writes back is registered last.
    return writers[-1][0] if len(writers) > 1 else None


def linear_layers(module: nn.Module) -> Iterator[tuple[str, int, int]]:
    """(path, inputs, outputs) of every linear layer below a module, in order of registration."""
    for path, child in module.named_modules():
        if isinstance(child, nn.Linear):
            yield path, child.in_features, child.out_features
        elif isinstance(child, Conv1D):
            yield path, child.nx, child.nf


def find_final_norm(model: nn.Module, block_list: str) -> str | None:
    """Path of the norm beside the block list: the last registered where several stand there."""
    parent_path = block_list.rpartition(".")[0]
    norms = [
        f"{parent_path}.{name}" if parent_path else name
        for name, child in model.get_submodule(parent_path).named_children()
        if "norm" in type(child).__name__.lower()
    ]
    return norms[-1] if norms else None


def path_of(model: nn.Module, wanted: nn.Module) -> str:
    paths: dict[nn.Module, str] = {module: path for path, module in model.named_modules()}
    return paths[wanted]


def hidden_of(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The hidden states in a block's output, which some models wrap in a tuple."""
    return output[0] if isinstance(output, tuple) else output
