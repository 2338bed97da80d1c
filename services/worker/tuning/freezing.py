"""Which parameters keep their values while tuning, and the proof that they did."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.placement import held_here
from shared.recipes import Freeze
from shared.recipes.freezing import listed_blocks, ranges


class FrozenWeightsChanged(Exception):
    """A weight that was to stay as it is has changed; `parameters` names every one that did."""

    def __init__(self, parameters: Sequence[str]) -> None:
        super().__init__(f"frozen weights changed while tuning: {', '.join(parameters)}")
        self.parameters = tuple(parameters)


@dataclass(frozen=True)
class Frozen:
    """What keeps its values: blocks, whole, and parameters that are not in these.

    parameters: dotted names; those of one place in several blocks are one entry, with the blocks' indices
    and ranges in brackets: `transformer.h.[0,3-5].ln_1.bias`. Freezings of one model are equal just when
    they freeze the same.
    """

    blocks: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()


NOTHING = Frozen()


def frozen_by(freeze: Freeze, language_model: LanguageModel, edited_layers: Iterable[int]) -> Frozen:
    """What a freezing means for this model, with these blocks edited.

    Raises RecipeDoesNotFit for a block or a pattern that the model has nothing for, and for `all_but_edited`
    where no block was edited.
    """
    blocks = range(len(language_model.anatomy.blocks))
    edited = sorted(set(edited_layers))
    match freeze.kind:
        case "none":
            return NOTHING
        case "edited":
            near = range(-freeze.margin, freeze.margin + 1)
            return Frozen(tuple(sorted({layer + off for layer in edited for off in near} & set(blocks))))
        case "all_but_edited":
            if not edited:
                raise RecipeDoesNotFit(f"freeze={freeze}: no block was edited, so that nothing would learn")
            return compact(language_model, names_of_all_but(language_model, edited))
        case "layers":
            missing = ranges(layer for layer in freeze.layers if layer not in blocks)
            if missing:
                raise RecipeDoesNotFit(
                    f"freeze={freeze}: the model has no block {missing}, only 0-{len(blocks) - 1}"
                )
            return Frozen(freeze.layers)
        case "parameters":
            return compact(language_model, names_matching(language_model, freeze.globs))


def names_of_all_but(language_model: LanguageModel, blocks: Iterable[int]) -> set[str]:
    """Names of the parameters outside of these blocks, by any name that they have."""
    prefixes = tuple(f"{language_model.anatomy.blocks[block]}." for block in blocks)
    return {name for name in every_name(language_model.model) if not name.startswith(prefixes)}


def names_matching(language_model: LanguageModel, globs: Iterable[str]) -> set[str]:
    """Names of the parameters that match any glob; raises RecipeDoesNotFit for one that matches none."""
    names = every_name(language_model.model)
    found: set[str] = set()
    for glob in globs:
        matching = {name for name in names if fnmatchcase(name, glob)}
        if not matching:
            raise RecipeDoesNotFit(f"freeze: no parameter of the model matches '{glob}'")
        found |= matching
    return found


def every_name(model: nn.Module) -> list[str]:
    """Names of all parameters; one that is shared, as by a tied head, has several."""
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def compact(language_model: LanguageModel, names: Iterable[str]) -> Frozen:
    """These parameters as few words: whole blocks first, then one entry for each place in the others."""
    model = language_model.model
    held = {id(model.get_parameter(name)) for name in names}
    frozen = {name for name, parameter in model.named_parameters() if id(parameter) in held}
    whole, places = list[int](), dict[str, list[int]]()
    for index, block in enumerate(language_model.anatomy.blocks):
        inside = {f"{block}.{name}" for name, _ in model.get_submodule(block).named_parameters()}
        if inside <= frozen:
            whole.append(index)
        else:
            for name in inside & frozen:
                places.setdefault(name.removeprefix(f"{block}."), []).append(index)
        frozen -= inside
    block_list = language_model.anatomy.blocks[0].rpartition(".")[0]
    entries = {f"{block_list}.[{ranges(at, separator=',')}].{place}" for place, at in places.items()}
    return Frozen(tuple(whole), tuple(sorted(entries | frozen)))


def frozen_names(language_model: LanguageModel, frozen: Frozen) -> frozenset[str]:
    """Names of all that is frozen, as the model's own `named_parameters` has them."""
    anatomy, model = language_model.anatomy, language_model.model
    prefixes = tuple(f"{anatomy.blocks[block]}." for block in frozen.blocks)
    listed = {name for entry in frozen.parameters for name in spelled_out(entry)}
    return frozenset(
        name for name, _ in model.named_parameters() if name in listed or name.startswith(prefixes)
    )


def spelled_out(entry: str) -> list[str]:
    """The names that an entry of `Frozen.parameters` stands for."""
    found = re.fullmatch(r"(.*\.)\[([0-9,-]+)\](\..*)", entry)
    if not found:
        return [entry]
    return [f"{found[1]}{index}{found[3]}" for index in listed_blocks(found[2])]


@contextmanager
def unchanged_where_frozen(model: nn.Module) -> Iterator[None]:
    """Raise FrozenWeightsChanged unless every parameter without a gradient is bit for bit as it was."""
    before = {name: fingerprint(p) for name, p in model.named_parameters() if not p.requires_grad}
    yield
    changed = [name for name, kept in before.items() if fingerprint(model.get_parameter(name)) != kept]
    if changed:
        raise FrozenWeightsChanged(changed)


def fingerprint(parameter: torch.Tensor) -> bytes:
    """SHA-256 of a tensor's bytes, or of those that this process has of it."""
    content = held_here(parameter.detach()).reshape(-1).view(torch.uint8).cpu()
    return hashlib.sha256(content.numpy().data).digest()
