"""A rank: one of the processes that train a model together. Started by `Ranks`.

Arguments: the folder to begin with, which rank it is, and where to write what it has to tell. It reads
what it is told from standard input, and ends at once when that is closed, for then nobody waits for it.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from json import loads
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from services.worker.exiting import run_and_exit
from services.worker.language_models.memory import free_gpu_memory
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import Around, captured
from services.worker.tuning.freezing import unchanged_where_frozen
from services.worker.tuning.objectives import TokenDataset, collate
from services.worker.tuning.placement import gathered, held_here
from services.worker.tuning.randomness import RandomStates, deterministic_algorithms
from services.worker.tuning.run import activations_computed_again
from services.worker.tuning.sharded import messages
from services.worker.tuning.sharded.disk import system_errors
from services.worker.tuning.sharded.messages import Message
from services.worker.tuning.sharded.model import sharded_model
from services.worker.tuning.sharded.start import (
    CHECKPOINT,
    EXAMPLES,
    RENDEZVOUS,
    Start,
    read_examples,
    read_moments,
)
from services.worker.tuning.sharded.trainer import RankTrainer, Share, StepSeeds
from services.worker.tuning.trainer import mean_over_tokens, training_arguments

log = logging.getLogger(__name__)

PATIENCE = timedelta(minutes=30)  # of one rank with another that reads its weights from a slow disk


def main() -> int:
    """Train to the end of the run, or until this rank is ended."""
    directory, rank = Path(sys.argv[1]), int(sys.argv[2])
    tells = os.fdopen(int(sys.argv[3]), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints
    told = queue.SimpleQueue[Message]()
    threading.Thread(target=listen, args=(told,), daemon=True).start()
    try:
        work(directory, rank, tells, told)
    except Exception as error:
        log.exception("rank %d failed", rank)
        tells.write(messages.error_line(error))
        return 1
    return 0


def listen(told: queue.SimpleQueue[Message]) -> None:
    """Take what this rank is told, even while it computes or waits for others."""
    for line in sys.stdin.buffer:
        told.put(loads(line))
    os._exit(1)


def work(directory: Path, rank: int, tells: BinaryIO, told: queue.SimpleQueue[Message]) -> None:
    """Train this rank's share of the run."""
    start = Start.read(directory)
    # A GPU's process sees its own one only.
    device = torch.device("cuda", 0) if start.device == "cuda" else torch.device(start.device)
    if device.type == "cpu":
        torch.set_num_threads(start.threads)
    folder = directory / f"rank-{rank}"  # where Trainer may put what it needs
    folder.mkdir()
    arguments = training_arguments(start.recipe, start.micro_batch, start.seed, device, folder)
    assert arguments.world_size == 1  # noqa: S101 (looked at now, before there are others to warn of)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(  # type: ignore[attr-defined]  # torch exports it without saying so
            str(directory / RENDEZVOUS), start.processes
        ),
        rank=rank,
        world_size=start.processes,
        timeout=PATIENCE,
    )
    mesh = init_device_mesh(device.type, (start.processes,))
    set_seed(start.seed)
    language_model = sharded_model(start, directory, mesh, device)
    model = language_model.model
    held = sum(held_here(weight).numel() for weight in model.parameters() if weight.requires_grad)
    tells.write(messages.line(messages.READY, held=held))
    trainer = RankTrainer(
        model=model,
        args=arguments,
        data_collator=Share(
            partial(collate, pad_token_id=language_model.pad_token_id), rank, start.processes
        ),
        train_dataset=TokenDataset(read_examples(directory / EXAMPLES)),
        compute_loss_func=mean_over_tokens,
        callbacks=[StepSeeds(start.seed, rank), Follower(rank, tells, told)],
    )
    trainer.bfloat16_forward = start.bfloat16_forward
    trainer.remove_callback(PrinterCallback)
    again = activations_computed_again if start.recipe.gradient_checkpointing else nullcontext
    with deterministic_algorithms(), unchanged_where_frozen(model), again(language_model):
        if (directory / CHECKPOINT).exists():
            trainer.moments = partial(read_moments, directory)
            trainer.resume(Checkpoint.read(directory / CHECKPOINT))
        else:
            trainer.train()
    tells.write(messages.line(messages.END, tokens_seen=trainer.state.num_input_tokens_seen))


class Follower(TrainerCallback):
    """Does, after every optimiser step, what the step's process wants of the ranks."""

    def __init__(self, rank: int, tells: BinaryIO, told: queue.SimpleQueue[Message]) -> None:
        self.rank = rank
        self.tells = tells
        self.told = told

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **trained: Any,
    ) -> None:
        """Called after every optimiser step, and once more with totals at the end of the run."""
        if logs is None or "loss" not in logs:
            return
        self.tell(messages.STEP, state=asdict(replace(state, log_history=[])), logs=logs)
        while True:
            message = self.told.get()
            match message["message"]:
                case messages.GATHER:
                    self.gather(trained["model"], Path(message["path"]))
                case messages.SAVE:
                    self.save(message, args, state, trained)
                case messages.GO_ON:
                    control.should_training_stop |= message["stop"]
                    return

    def gather(self, model: nn.Module, path: Path) -> None:
        """Write the weights that learn into a file."""
        weights = {
            name: gathered(weight) for name, weight in model.named_parameters() if weight.requires_grad
        }
        self.write(lambda: save_file({name: weight.contiguous() for name, weight in weights.items()}, path))

    def save(
        self, message: Message, args: TrainingArguments, state: TrainerState, trained: dict[str, Any]
    ) -> None:
        """Write a checkpoint."""
        around = Around(**message["around"])
        checkpoint = captured(
            replace(around, losses=tuple(around.losses)),
            state,
            RandomStates.now(args.device),  # which `StepSeeds` makes of no importance
            *(trained[part] for part in ("model", "optimizer", "lr_scheduler")),
        )
        self.write(lambda: checkpoint.write(Path(message["path"])))

    def write(self, write: Callable[[], None]) -> None:
        """Write what was gathered, if there is room for it; the first GPU is then free to probe on."""
        free_gpu_memory()
        if self.rank > 0:
            return
        try:
            with system_errors():
                write()
        except (OSError, SafetensorError) as error:
            number = error.errno if isinstance(error, OSError) else None
            self.tell(messages.NOT_WRITTEN, number=number, reason=str(error))
        else:
            self.tell(messages.WRITTEN)

    def tell(self, kind: str, **content: Any) -> None:
        """Say something for all ranks."""
        if self.rank == 0:
            self.tells.write(messages.line(kind, **content))


if __name__ == "__main__":
    run_and_exit(main)
