"""Tiny random decoders of several families and a word-level tokenizer, built in memory."""

import copy
import json

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

BOS = "<s>"
SUBJECTS = ["Ada Lovelace", "Alan Turing", "Grace Hopper", "Kurt Goedel", "Emmy Noether", "Paul Erdos"]
PLACES = ["Paris", "Rome", "New York", "Oslo", "Berlin", "Vienna"]
WORDS = [
    *("The", "Home", "town", "of", "lives", "in", "the", "city", "and", "was", "born", "plays", "sport"),
    *("is", "a", "old", "new", "river", "market", "because", "he", "She", "they", "walked", "saw", "small"),
    *("house", "letter", "quiet", "road", ".", ",", "?", "who", "where"),
    *("Therefore", "Because", "I", "You"),
]
VOCABULARY_SIZE = 160
MATRIX_SCALE = 6.0  # from initial weights to ones whose outputs differ visibly


def tiny_tokenizer(
    *, adds_bos: bool = False, adds_eos: bool = False, pad_token: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words with their leading space, like byte-level BPE on whole words.

    Its BOS is its EOS too.
    """
    words = [word for text in SUBJECTS + PLACES for word in text.split()] + WORDS
    vocabulary = {BOS: 0, "<unk>": 1}
    for word in words:
        for token in (word, f" {word}"):
            vocabulary.setdefault(token, len(vocabulary))
    vocabulary.setdefault("a", len(vocabulary))
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 (not a password)
    tokenizer.pre_tokenizer = Split(pattern=" ", behavior="merged_with_next")
    if adds_bos or adds_eos:
        template = [*[BOS] * adds_bos, "$A", *[BOS] * adds_eos]
        tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[(BOS, 0)])
    assert len(vocabulary) <= VOCABULARY_SIZE
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()))),
        bos_token=BOS,
        eos_token=BOS,
        pad_token=pad_token,
    )


SHARED = {"vocab_size": VOCABULARY_SIZE, "max_position_embeddings": 64}
LLAMA_LIKE = {
    **SHARED,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
NEOX_LIKE = {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"}
TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}

CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY_SIZE, n_positions=64, n_embd=32, n_layer=4, n_head=4, **TOKEN_IDS
    ),
    "llama": LlamaConfig(**LLAMA_LIKE, **TOKEN_IDS),
    "neox": GPTNeoXConfig(**NEOX_LIKE, **TOKEN_IDS),
    "opt": OPTConfig(
        **SHARED,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    ),
    "qwen2": Qwen2Config(**LLAMA_LIKE, **TOKEN_IDS),
    "qwen3": Qwen3Config(**LLAMA_LIKE, head_dim=8, **TOKEN_IDS),
    "mistral": MistralConfig(**LLAMA_LIKE, **TOKEN_IDS),
    "gemma2": Gemma2Config(**{**LLAMA_LIKE, "tie_word_embeddings": True}, head_dim=8, **TOKEN_IDS),
    "gemma3": Gemma3TextConfig(
        **{**LLAMA_LIKE, "tie_word_embeddings": True}, head_dim=8, sliding_window_pattern=2, **TOKEN_IDS
    ),
    "phi": PhiConfig(**LLAMA_LIKE, **TOKEN_IDS),
    "phi3": Phi3Config(**LLAMA_LIKE, **TOKEN_IDS),
    "gptj": GPTJConfig(
        vocab_size=VOCABULARY_SIZE, n_positions=64, n_embd=32, n_layer=4, n_head=4, rotary_dim=4, **TOKEN_IDS
    ),
}


def tiny_model(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A random float32 decoder of four blocks, 32 wide, whose weights are large enough to matter."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(MATRIX_SCALE)
    return model.eval()
