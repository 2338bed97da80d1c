"""Where a target vector is written: outputs of modules of one block, at the subject's last token."""

from dataclasses import dataclass

from services.worker.language_models.anatomy import Anatomy


@dataclass(frozen=True)
class Place:
    """The outputs to which δ is added: of modules of block `layer`, named in the order in which they run.

    Each module has a δ of its own, all of them optimised together.
    """

    layer: int
    modules: tuple[str, ...]


def block_output(anatomy: Anatomy, layer: int) -> Place:
    """The hidden states that a block hands on (MEMIT)."""
    return Place(layer, (anatomy.blocks[layer],))


def mlp_output(anatomy: Anatomy, layer: int) -> Place:
    """What a block's MLP adds to the residual stream: the output of its down-projection (ROME)."""
    return Place(layer, (anatomy.mlp_down_projections[layer],))


def attention_and_mlp_outputs(anatomy: Anatomy, layer: int) -> Place:
    """What a block's attention and its MLP each add to the residual stream (PMET)."""
    return Place(layer, (anatomy.attention_outputs[layer], anatomy.mlp_down_projections[layer]))
