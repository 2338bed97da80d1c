"""A language model that writes texts for us: any causal or sequence-to-sequence one, not one under audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from services.worker.language_models.batching import encode_prompts, encode_texts, pad
from services.worker.language_models.loading import ModelNotLoadable, refuse_unsafe_directory
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone

PROMPTS_AT_ONCE = 32
NUCLEUS = 0.95  # Holtzman et al. 2020 (arXiv 1904.09751)


@dataclass(frozen=True)
class TextWriter:
    """A model in evaluation mode, its tokenizer, and what it was asked for by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: str

    @property
    def rewrites(self) -> bool:
        """Whether it is a sequence-to-sequence model, which writes a text anew and does not go on with it."""
        return bool(self.model.config.is_encoder_decoder)

    @property
    def follows_instructions(self) -> bool:
        """Whether its tokenizer says how a conversation with it is laid out."""
        return not self.rewrites and bool(self.tokenizer.chat_template)

    def write(
        self,
        prompts: Sequence[str],
        choices: int,
        new_tokens: int,
        *,
        seed: int,
        progress: Progress,
        memory: GpuMemory,
    ) -> list[list[str]]:
        """`choices` texts for each prompt, drawn by nucleus sampling: what follows it, or a text of its own.

        new_tokens: longest text. The same call on the same machine gives the same texts. progress: called
        with the prompts done and their number. Raises ModelNotLoadable when the model has too few positions
        for a prompt and what it is to write, and OutOfGpuMemory.
        """
        written: list[list[str]] = [[] for _ in prompts]
        work = WorkDone(progress, whole=len(prompts))

        def write_some(chosen: Sequence[int]) -> None:
            texts = self._sample([prompts[index] for index in chosen], choices, new_tokens, seed + chosen[0])
            for place, index in enumerate(chosen):
                written[index] = texts[place * choices : (place + 1) * choices]
            work.advance(len(chosen))

        starts = range(0, len(prompts), PROMPTS_AT_ONCE)
        batches = [range(start, min(start + PROMPTS_AT_ONCE, len(prompts))) for start in starts]
        memory.run("paraphrases were written", batches, write_some)
        return written

    @torch.no_grad()
    def _sample(self, prompts: Sequence[str], choices: int, new_tokens: int, seed: int) -> list[str]:
        """Texts of each prompt, one prompt after another."""
        encoded = self._encode(prompts)
        self._check_length(encoded["input_ids"].shape[1], new_tokens)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            output: Tensor = self.model.generate(  # type: ignore[operator]  # a method of those that can write
                **encoded,
                do_sample=True,
                top_p=NUCLEUS,
                top_k=0,
                num_return_sequences=choices,
                max_new_tokens=new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = output if self.rewrites else output[:, encoded["input_ids"].shape[1] :]
        texts: list[str] = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts

    def _check_length(self, prompt_tokens: int, new_tokens: int) -> None:
        needed = max(prompt_tokens, new_tokens) if self.rewrites else prompt_tokens + new_tokens
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and needed > limit:
            raise ModelNotLoadable(self.reference, f"it reads {limit} tokens at once, {needed} are needed")

    def _encode(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Prompts as the model reads them, laid out as a conversation where it is made for one."""
        if self.rewrites:
            sequences = encode_texts(self.tokenizer, prompts)
        elif self.follows_instructions:
            sequences = [self._conversation(prompt) for prompt in prompts]
        else:
            sequences = encode_prompts(self.tokenizer, prompts)
        batch = pad(sequences, self.tokenizer.pad_token_id, "left").to(self.model.device)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    def _conversation(self, prompt: str) -> list[int]:
        """Token ids of a request, for which the layout has the special tokens."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self.tokenizer.encode(str(text), add_special_tokens=False)
        return ids


def load_text_writer(directory: Path, *, reference: str, device: str = "cpu") -> TextWriter:
    """Load a Hugging Face directory of a causal or sequence-to-sequence model from safetensors files.

    Raises ModelNotLoadable when the directory is refused (see `refuse_unsafe_directory`), broken, or that
    of a model that writes nothing.
    """
    refuse_unsafe_directory(directory, reference)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(directory, **safe)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model: PreTrainedModel = kind.from_pretrained(directory, dtype="auto", use_safetensors=True, **safe)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, **safe)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelNotLoadable(reference, str(error)) from error
    if not model.can_generate():
        raise ModelNotLoadable(reference, "it writes no texts")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    nn.Module.to(model, device)
    model.train(False).requires_grad_(False)
    return TextWriter(model, tokenizer, reference)
