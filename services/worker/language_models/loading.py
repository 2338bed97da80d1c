"""Loading a decoder from a local directory, without running or unpickling anything that came with it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from services.worker.language_models.anatomy import Anatomy, find_anatomy
from services.worker.language_models.batching import PaddingSide, TokenBatch, pad

ACTIVATION_BYTES = 8 * 2**30
VALUES_PER_BLOCK = 20  # activations that a block of a gated decoder keeps, in hidden sizes per token
FEWEST_TOKENS, MOST_TOKENS = 256, 8_192

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelNotLoadable(Exception):
    """A model directory that this project refuses or fails to load; `reason` says why."""

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(f"{reference}: {reason}")
        self.reference = reference
        self.reason = reason


def no_preamble(_prompt: str) -> str:
    """Nothing is put before a prompt."""
    return ""


@dataclass(frozen=True)
class LanguageModel:
    """A decoder in evaluation mode with frozen parameters, its tokenizer and its anatomy.

    preamble: what is put before a prompt whenever the model is asked; only in-context editing has one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    reference: str
    revision: str
    preamble: Callable[[str], str] = no_preamble

    @property
    def device(self) -> torch.device:
        return self.model.get_parameter(f"{self.anatomy.embedding}.weight").device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_parameter(f"{self.anatomy.embedding}.weight").dtype

    @property
    def pad_token_id(self) -> int:
        """The id that fills short rows; its choice has no effect, since padding is masked out."""
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(candidate, int):
                return candidate
        return 0

    @property
    def context_length(self) -> int | None:
        """Most tokens the model reads at once, or None when its configuration sets no limit."""
        length = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return length if isinstance(length, int) else None

    @property
    def token_budget(self) -> int:
        """Padded tokens whose activations, kept for a backward pass, take about eight gibibytes at most.

        It depends on the model alone, so that the same work is split the same way on every machine.
        """
        config = self.model.config.get_text_config(decoder=True)
        values = VALUES_PER_BLOCK * int(config.hidden_size) * len(self.anatomy.blocks)
        per_token = values * self.dtype.itemsize
        return min(MOST_TOKENS, max(FEWEST_TOKENS, ACTIVATION_BYTES // per_token))

    def batch(self, sequences: Sequence[Sequence[int]]) -> TokenBatch:
        """Pad token sequences on the tokenizer's side and move them to the model's device."""
        side: PaddingSide = "left" if self.tokenizer.padding_side == "left" else "right"
        return pad(sequences, self.pad_token_id, side).to(self.device)


def load_language_model(
    directory: Path, *, reference: str, revision: str, dtype: Dtype = "auto", device: str = "cpu"
) -> LanguageModel:
    """Load a Hugging Face directory of a decoder from safetensors files.

    reference: how the model was asked for ("builtin:almanac"); revision: content hash or commit.
    Raises ModelNotLoadable when the directory is refused (pickled weights only, an adapter, quantised
    weights, code of its own) or broken, and UnsupportedModel when the anatomy is not that of a decoder.
    """
    refuse_unsafe_directory(directory, reference)
    try:
        # mypy cannot follow the lazy auto classes, so the types are stated here.
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelNotLoadable(reference, str(error)) from error
    nn.Module.to(model, device)
    return prepare_language_model(model, tokenizer, reference, revision)


def prepare_language_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reference: str, revision: str
) -> LanguageModel:
    """Freeze a model that is already in memory, set it to evaluation mode and find its anatomy."""
    model.train(False).requires_grad_(False)
    return LanguageModel(model, tokenizer, find_anatomy(model), reference, revision)


def refuse_unsafe_directory(directory: Path, reference: str) -> None:
    """Raise ModelNotLoadable when loading the directory would unpickle, run code or fetch something."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotLoadable(reference, "there is no config.json in its directory") from error
    except (OSError, ValueError) as error:
        raise ModelNotLoadable(reference, f"its config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelNotLoadable(reference, "its config.json is not a JSON object")
    if "auto_map" in config:
        raise ModelNotLoadable(reference, "it needs Python code of its own (auto_map), which is never run")
    if "quantization_config" in config:
        raise ModelNotLoadable(reference, "its weights are quantised; audits need float weights")
    if (directory / "adapter_config.json").exists():
        raise ModelNotLoadable(reference, "it is an adapter; merge it into its base model first")
    if not any(directory.glob("*.safetensors")):
        pickled = sorted(path.name for path in directory.iterdir() if path.suffix in {".bin", ".pt", ".pth"})
        found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise ModelNotLoadable(reference, f"there are {found}; safetensors files are required")
