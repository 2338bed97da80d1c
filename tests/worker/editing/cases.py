"""What the editors are tried on: small edits of tiny random models."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from services.worker.editing.contexts import Contexts
from services.worker.editing.corpora import GivenTexts
from services.worker.editing.editor import EditOutcome
from services.worker.editing.key_statistics import KeyStatistics, collect_key_statistics
from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from shared.edits import Edit
from tests.worker.tiny_models import CONFIGS, PLACES, SUBJECTS, WORDS, tiny_model, tiny_tokenizer

EDITS = [
    Edit(prompt="{} lives in", subject="Ada Lovelace", target_new="Paris", target_true="Rome"),
    Edit(prompt="Home town of {}", subject="Alan Turing", target_new="New York", target_true="Oslo"),
    Edit(prompt="The city {} was born in", subject="Grace", target_new="Oslo", target_true="Rome"),
    Edit(prompt="the old market of {}", subject="Emmy Noether", target_new="New York", target_true="Berlin"),
]
# Nothing in a random model carries a subject to later tokens, so only there must an edit take.
ENDING_IN_SUBJECT = [index for index, edit in enumerate(EDITS) if edit.prompt.endswith("{}")]
CONTEXTS = Contexts(groups=(("{}",), ("The river and they walked . {}", "Because he saw . {}")))
TOKEN_BUDGET = 4_096

ANATOMIES = ("gpt2", "llama", "neox", "opt")  # every invariant holds on these, ...
FAMILIES = tuple(family for family in CONFIGS if family not in ANATOMIES)  # ... and the first few on those
ADD_BOS = frozenset({"llama", "mistral", "gemma2", "gemma3"})


def tiny_language_model(anatomy: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A tiny random model; some families' tokenizers add BOS, and only GPT-2's has a pad token."""
    tokenizer = tiny_tokenizer(
        adds_bos=anatomy in ADD_BOS,
        pad_token="<unk>" if anatomy == "gpt2" else None,
    )
    return prepare_language_model(tiny_model(anatomy).to(dtype), tokenizer, f"tiny:{anatomy}", "r1")


def random_texts() -> list[str]:
    generator = torch.Generator().manual_seed(3)
    words = [*WORDS, *(word for text in SUBJECTS + PLACES for word in text.split())]
    draws = torch.randint(len(words), (60, 20), generator=generator)
    return [" ".join(words[index] for index in row) for row in draws.tolist()]


def tiny_statistics(language_model: LanguageModel) -> KeyStatistics:
    """Second moments of the keys of layers 1 and 2 over random words."""
    return collect_key_statistics(
        language_model, GivenTexts(random_texts()), [1, 2], token_budget=TOKEN_BUDGET
    )


def parameters_of(outcome: EditOutcome) -> Mapping[str, LowRank | Dense]:
    """The weight delta of an editor that has one, by parameter."""
    assert isinstance(outcome.modification, WeightDelta)
    return outcome.modification.parameters


@torch.no_grad()
def target_log_probs(language_model: LanguageModel, edits: Sequence[Edit]) -> Tensor:
    """Log-probability of each edit's whole target after its prompt, one edit at a time: (edits,)."""
    totals = []
    for edit in edits:
        asked = language_model.preamble(edit.full_prompt) + edit.full_prompt
        prompt = encode_prompts(language_model.tokenizer, [asked])[0]
        target = encode_target(language_model.tokenizer, edit.target_new)
        logits = language_model.model(input_ids=torch.tensor([prompt + target])).logits[0].float()
        predicting = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
        totals.append(predicting.gather(1, torch.tensor(target)[:, None]).sum())
    return torch.stack(totals)
