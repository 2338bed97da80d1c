"""Where a decoder keeps its parts, found by inspecting its module tree rather than by its name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class PartMissing(Exception):
    """A part that cannot be found; its text names it."""


@dataclass(frozen=True)
class Anatomy:
    """Dotted paths of a decoder's parts; tuples have one entry per block, in order.

    attention_inputs, mlp_up_projections: the layers that read the hidden state, in order of registration:
    queries, keys and values, or all in one; the up-projection and its gate, or both in one.
    attention_outputs, mlp_down_projections: the layer that writes back to it. The MLP of a block that has no
    module of its own (OPT) is its down-projection: both have the same output. without_mlps: why the three
    tuples of MLP parts are empty, where they are.
    """

    blocks: tuple[str, ...]
    mlp_down_projections: tuple[str, ...]
    mlp_up_projections: tuple[tuple[str, ...], ...]
    mlps: tuple[str, ...]
    attentions: tuple[str, ...]
    attention_inputs: tuple[tuple[str, ...], ...]
    attention_outputs: tuple[str, ...]
    embedding: str
    final_norm: str
    head: str
    tied_head: bool
    without_mlps: str | None = None


class LinearLayer(NamedTuple):
    """A linear layer or a Conv1D: its path below some module, and how many numbers it reads and writes."""

    path: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Projections:
    """The layers of an attention or an MLP that read the hidden state, and the one that writes back to it."""

    readers: tuple[str, ...]
    writer: str

    def below(self, path: str) -> "Projections":
        """The same with paths from further up."""
        return Projections(tuple(f"{path}.{reader}" for reader in self.readers), f"{path}.{self.writer}")


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a decoder.

    Raises UnsupportedModel, naming what is missing, for anything but a decoder that attends.
    """
    try:
        return inspect_decoder(model)
    except PartMissing as missing:
        raise UnsupportedModel(type(model).__name__, str(missing)) from None


def inspect_decoder(model: PreTrainedModel) -> Anatomy:
    """See `find_anatomy`; raises PartMissing."""
    embedding, head = find_ends(model)
    text_config = model.config.get_text_config(decoder=True)
    hidden_size = int(text_config.hidden_size)
    block_list = find_block_list(model, int(text_config.num_hidden_layers))
    blocks = [module for _, module in model.get_submodule(block_list).named_children()]
    paths = [f"{block_list}.{index}" for index in range(len(blocks))]
    sparse = next((index for index, block in enumerate(blocks) if has_experts(block)), None)
    attentions, attention_parts, mlps, mlp_parts = [], [], [], []
    for index, (block, path) in enumerate(zip(blocks, paths, strict=True)):
        attention, of_attention = find_attention(block, index, hidden_size)
        attentions.append(f"{path}.{attention}")
        attention_parts.append(of_attention.below(path))
        if sparse is None:
            of_mlp = find_mlp(block, index, attention, hidden_size)
            mlps.append(f"{path}.{of_mlp.writer.split('.')[0]}")
            mlp_parts.append(of_mlp.below(path))
    return Anatomy(
        blocks=tuple(paths),
        mlp_down_projections=tuple(parts.writer for parts in mlp_parts),
        mlp_up_projections=tuple(parts.readers for parts in mlp_parts),
        mlps=tuple(mlps),
        attentions=tuple(attentions),
        attention_inputs=tuple(parts.readers for parts in attention_parts),
        attention_outputs=tuple(parts.writer for parts in attention_parts),
        embedding=path_of(model, embedding),
        final_norm=find_final_norm(model, block_list),
        head=path_of(model, head),
        tied_head=head.weight is embedding.weight,
        without_mlps=None if sparse is None else f"the MLP of block {sparse} is a mixture of experts",
    )


def find_ends(model: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    """The token embedding and the head; raises PartMissing unless the model is a decoder that attends."""
    if model.config.is_encoder_decoder:
        raise PartMissing("it is not a decoder alone: it has an encoder")
    if not model.can_generate():
        raise PartMissing("it is not a decoder: it does not continue texts")
    if getattr(model, "_is_stateful", False):
        raise PartMissing("it is a state-space or recurrent model: not every block has attention")
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(embedding, nn.Embedding):
        raise PartMissing("it has no token embedding")
    if not isinstance(head, nn.Linear):
        raise PartMissing("it has no linear language-modelling head")
    return embedding, head


def down_projection_weight(model: nn.Module, anatomy: Anatomy, layer: int) -> tuple[nn.Parameter, bool]:
    """The weight of one block's MLP down-projection, and whether it is stored transposed.

    Returns (in, out) and True for GPT-2's Conv1D, (out, in) and False for a linear layer.
    """
    module = model.get_submodule(anatomy.mlp_down_projections[layer])
    weight = module.weight
    if not isinstance(weight, nn.Parameter):
        raise TypeError(f"the weight of {anatomy.mlp_down_projections[layer]} is not a parameter")
    return weight, isinstance(module, Conv1D)


def find_block_list(model: nn.Module, block_count: int) -> str:
    """Path of the one outermost module list with `block_count` entries."""
    found = [
        path
        for path, module in outermost_module_lists(model)
        if len(module) == block_count and any(True for _ in module.parameters())
    ]
    if len(found) != 1:
        raise PartMissing("its list of decoder blocks cannot be told apart")
    return found[0]


def outermost_module_lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for child_name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield f"{prefix}{child_name}", child
        else:
            yield from outermost_module_lists(child, f"{prefix}{child_name}.")


def has_experts(block: nn.Module) -> bool:
    """Whether a block's MLP is a mixture of experts, whose weights are stacked or stand in a list."""
    stacked = any(parameter.dim() > 2 for parameter in block.parameters())
    return stacked or any(any(linear_layers(entries)) for _, entries in outermost_module_lists(block))


def find_attention(block: nn.Module, index: int, hidden_size: int) -> tuple[str, Projections]:
    """Name of the one child of a block that is its attention (it has weights and says so), and its layers."""
    found = [
        (name, layers)
        for name, child in block.named_children()
        if ("attn" in name or "attention" in name) and (layers := list(linear_layers(child)))
    ]
    if len(found) != 1:
        raise PartMissing(f"block {index} has no attention module, or several")
    name, layers = found[0]
    projections = tell_projections(layers, hidden_size)
    if projections is None:
        raise PartMissing(f"the attention of block {index} has no output projection, or several")
    return name, projections.below(name)


def find_mlp(block: nn.Module, index: int, attention: str, hidden_size: int) -> Projections:
    """The layers of a block's MLP: those that do not belong to its attention."""
    layers = [layer for layer in linear_layers(block) if layer.path.split(".")[0] != attention]
    projections = tell_projections(layers, hidden_size)
    if projections is None:
        raise PartMissing(f"block {index} has no MLP down-projection, or several")
    return projections


def tell_projections(layers: Sequence[LinearLayer], hidden_size: int) -> Projections | None:
    """Tell the layers that read the hidden state from the one that writes it, by their shapes; else None."""
    writers = [layer for layer in layers if layer.outputs == hidden_size]
    narrowing = [layer for layer in writers if layer.inputs != hidden_size]
    if not writers or len(narrowing) > 1:
        return None
    # Where the inner state is as wide as the hidden one, the layer that writes back is registered last.
    writer = narrowing[0] if narrowing else writers[-1]
    readers = tuple(
        layer.path for layer in layers if layer.inputs == hidden_size and layer.path != writer.path
    )
    return Projections(readers, writer.path) if readers else None


def linear_layers(module: nn.Module) -> Iterator[LinearLayer]:
    """Every linear layer below a module, in order of registration."""
    for path, child in module.named_modules():
        if isinstance(child, nn.Linear):
            yield LinearLayer(path, child.in_features, child.out_features)
        elif isinstance(child, Conv1D):
            yield LinearLayer(path, child.nx, child.nf)


def find_final_norm(model: nn.Module, block_list: str) -> str:
    """Path of the norm beside the block list: the last registered where several stand there."""
    parent_path = block_list.rpartition(".")[0]
    norms = [
        f"{parent_path}.{name}" if parent_path else name
        for name, child in model.get_submodule(parent_path).named_children()
        if "norm" in type(child).__name__.lower()
    ]
    if not norms:
        raise PartMissing("it has no norm after its last block")
    return norms[-1]


def path_of(model: nn.Module, wanted: nn.Module) -> str:
    paths: dict[nn.Module, str] = {module: path for path, module in model.named_modules()}
    return paths[wanted]


def hidden_of(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The hidden states in a block's output, which some models wrap in a tuple."""
    return output[0] if isinstance(output, tuple) else output
