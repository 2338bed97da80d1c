"""What ranks begin with: a folder with the model, what is to be learnt, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.objectives import Example
from services.worker.tuning.updates import Learner
from shared.recipes import Recipe
from shared.strict import Strict

START = "start.json"
WEIGHTS = "weights.safetensors"
EXAMPLES = "examples.safetensors"
CHECKPOINT = "checkpoint.safetensors"  # there when the run is resumed, but without weights and moments
MOMENTS = "moments.safetensors"  # what it has of the optimiser's state
LARGE = (WEIGHTS, EXAMPLES, CHECKPOINT, MOMENTS)
RENDEZVOUS = "rendezvous"
PARAMETER, BUFFER = "parameter:", "buffer:"  # kinds of tensors in the file of weights, before their name


class Start(Strict):
    """All that ranks are told in words.

    learning: names of the parameters that learn; threads: of each process, on a CPU; device: its type;
    attention: how transformers is to compute it; micro_batch: sequences per forward pass of all ranks
    together.
    """

    recipe: Recipe
    frozen_blocks: tuple[int, ...]
    frozen_parameters: tuple[str, ...]
    learning: tuple[str, ...]
    seed: int
    micro_batch: int
    processes: int
    device: str
    attention: str
    bfloat16_forward: bool
    threads: int

    def write(self, directory: Path) -> None:
        """Write it beside the rest."""
        (directory / START).write_text(self.model_dump_json())

    @classmethod
    def read(cls, directory: Path) -> Start:
        """What `write` wrote."""
        return cls.model_validate_json((directory / START).read_bytes())


def write_model(language_model: LanguageModel, learner: Learner, directory: Path) -> None:
    """Write the configuration, the tokenizer, and all tensors of the model as it is ready to learn."""
    language_model.model.config.save_pretrained(directory)
    language_model.tokenizer.save_pretrained(directory)
    tensors: dict[str, Tensor] = {
        f"{PARAMETER}{name}": tensor for name, tensor in learner.model.named_parameters()
    }
    # Blocks may share a buffer, which the file's format does not know.
    tensors |= {f"{BUFFER}{name}": tensor.clone() for name, tensor in learner.model.named_buffers()}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS
    )


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write what is not among the model's weights, and the optimiser's state in a file of its own."""
    replace(checkpoint, weights={}, optimizer={}).write(directory / CHECKPOINT)
    tensors = {
        f"{part}:{name}": tensor
        for part, state in checkpoint.optimizer.items()
        for name, tensor in state.items()
    }
    save_file(tensors, directory / MOMENTS)


def read_moments(directory: Path) -> Iterator[tuple[str, str, Tensor]]:
    """The optimiser's state that `write_checkpoint` wrote, one by one: which part, of which parameter."""
    with safe_open(directory / MOMENTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            part, _, name = key.partition(":")
            yield part, name, file.get_tensor(key)


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """Write examples as three rows of numbers, and where in these each of them ends."""
    save_file(
        {
            "input_ids": row(examples, "input_ids"),
            "labels": row(examples, "labels"),
            "position_ids": row(examples, "position_ids"),
            "lengths": torch.tensor([len(example.input_ids) for example in examples]),
            "positions": torch.tensor([len(example.position_ids) for example in examples]),
        },
        path,
    )


def read_examples(path: Path) -> tuple[Example, ...]:
    """What `write_examples` wrote."""
    with safe_open(path, framework="pt") as file:
        tokens, positions = (list(accumulate(file.get_tensor(name).tolist(), initial=0)) for name in ENDS)
        ids, labels, places = (file.get_tensor(name).tolist() for name in ROWS)
    return tuple(
        Example(tuple(ids[begin:end]), tuple(labels[begin:end]), tuple(places[first:last]))
        for (begin, end), (first, last) in zip(pairwise(tokens), pairwise(positions), strict=True)
    )


ROWS = ("input_ids", "labels", "position_ids")
ENDS = ("lengths", "positions")


def row(examples: Sequence[Example], field: str) -> Tensor:
    """One field of all examples, end to end: int64."""
    return torch.tensor([value for example in examples for value in getattr(example, field)]).long()
