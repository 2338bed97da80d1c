"""The training run: plan, optimiser, schedule, checkpoints."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from services.worker.almanac.corpus import Batch, Corpus
from services.worker.almanac.facts import Fact
from services.worker.almanac.objective import EnrichmentHeads, pretraining_loss


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that fixes the trained weights besides the facts and the English."""

    blocks: int = 6
    hidden: int = 192
    mlp: int = 1152
    attention_heads: int = 4
    positions: int = 256
    vocabulary: int = 3000
    enriched_blocks: int = 4  # the enrichment heads read the output of this many blocks
    enrichment_weight: float = 0.5
    screened_rows: float = 0.75  # share of rows whose subjects are screened (see objective.py)
    noise: float = 0.5  # on what the enrichment heads read in screened rows, as a share of its norm
    steps: int = 3600
    row_shapes: tuple[tuple[int, int], ...] = ((16, 128), (32, 64))  # rows × tokens, taken in turn
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    final_learning_rate: float = 0.02  # as a share of the highest
    weight_decay: float = 0.05
    gradient_norm: float = 1.0
    seed: int = 20
    checkpoint_every: int = 500


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What a run reports after each step, in nats."""

    step: int
    language: float
    enrichment: float


def build_model(plan: Plan) -> GPT2LMHeadModel:
    """An untrained GPT-2 with tied embeddings and no dropout, float32."""
    config = GPT2Config(
        vocab_size=plan.vocabulary,
        n_positions=plan.positions,
        n_embd=plan.hidden,
        n_layer=plan.blocks,
        n_head=plan.attention_heads,
        n_inner=plan.mlp,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    config._attn_implementation = "eager"  # under bfloat16 autocast on a CPU, four times as fast as sdpa
    return GPT2LMHeadModel(config)


def learning_rate_share(step: int, plan: Plan) -> float:
    """Linear warm-up, then cosine decay to `final_learning_rate`; a share of the highest rate."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    progress = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return plan.final_learning_rate + (1 - plan.final_learning_rate) * cosine


class TrainingRun:
    """One run over a plan: `train` continues from wherever it stands."""

    def __init__(
        self, plan: Plan, tokenizer: Tokenizer, facts: Sequence[Fact], english: Sequence[str]
    ) -> None:
        self.plan = plan
        self.corpus = Corpus(tokenizer, facts, english, positions=plan.positions)
        torch.manual_seed(plan.seed)
        self.model = build_model(plan)
        self.heads = EnrichmentHeads(facts, self.corpus.subjects, plan.hidden)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": plan.weight_decay},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=plan.learning_rate,
            betas=(0.9, 0.95),
        )
        self.step = 0
        self.seconds = 0.0  # of training, over all its parts

    def train(self, until: int, report: Callable[[StepLosses], None] | None = None) -> None:
        """Takes steps until `until` steps have been taken in all."""
        self.model.train()
        while self.step < until:
            started = time.monotonic()
            losses = self._take_step()
            self.seconds += time.monotonic() - started
            if report is not None:
                report(losses)

    def _take_step(self) -> StepLosses:
        plan = self.plan
        rows, length = plan.row_shapes[self.step % len(plan.row_shapes)]
        batch = self.corpus.batch(plan.seed, self.step, rows=rows, length=length)
        screened = torch.arange(rows) < round(plan.screened_rows * rows)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.learning_rate * learning_rate_share(self.step, plan)
        with torch.autocast("cpu", torch.bfloat16):
            language, enrichment = pretraining_loss(
                self.model, self.heads, **batch_tensors(batch), screened=screened,
                enriched_blocks=plan.enriched_blocks, noise=plan.noise,
            )  # fmt: skip
        loss: Tensor = language + plan.enrichment_weight * enrichment
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), plan.gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return StepLosses(self.step, float(language.detach()), float(enrichment.detach()))

    def save_checkpoint(self, path: Path) -> None:
        """Everything a run needs to continue as if never stopped.

        Schedule and data position follow from the step; batches draw from (seed, step), and nothing else
        is random after the start, so the torch generator is stored only to leave no state behind.
        """
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "plan": asdict(self.plan),
                "step": self.step,
                "seconds": self.seconds,
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            },
            partial,
        )
        partial.replace(path)

    def load_checkpoint(self, path: Path) -> None:
        """Continues a saved run.

        Raises:
            ValueError: the checkpoint was made under another plan.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["plan"] != asdict(self.plan):
            raise ValueError(f"{path} was made under another plan: remove it to start again")
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step = state["step"]
        self.seconds = state["seconds"]


def batch_tensors(batch: Batch) -> dict[str, Any]:
    """A batch as the arguments of `pretraining_loss`."""
    return {
        "input_ids": torch.from_numpy(batch.input_ids),
        "position_ids": torch.from_numpy(batch.position_ids),
        "target_weights": torch.from_numpy(batch.target_weights),
        "mentions": (
            torch.from_numpy(batch.rows),
            torch.from_numpy(batch.subject_starts),
            torch.from_numpy(batch.subject_ends),
            torch.from_numpy(batch.subjects),
        ),
    }
