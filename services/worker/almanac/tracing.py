"""Causal tracing by interchange: where along the prompt, and how deep, a fact is decided.

Geiger et al., Causal Abstractions of Neural Networks (arXiv 2106.02997): give a prompt the hidden state that
another subject has at the same place, and see whether its answer becomes the other subject's.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from services.worker.almanac.facts import Fact
from services.worker.almanac.recall import pad_right
from services.worker.language_models.loading import LanguageModel


@dataclass(frozen=True, slots=True)
class Interchange:
    """Two subjects in one phrasing, whose first answer tokens differ."""

    phrasing: str
    subject: str
    other_subject: str
    other_answer: str


def draw_interchanges(
    tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], count: int, random_source: random.Random
) -> list[Interchange]:
    """Pairs of facts of one relation in any of its phrasings; facts are drawn evenly."""
    relations: dict[str, list[Fact]] = {}
    first_tokens = {fact.object: tokenizer.encode(" " + fact.object)[0] for fact in facts}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact)
    drawn: list[Interchange] = []
    while len(drawn) < count:
        fact = random_source.choice(facts)
        other = random_source.choice(relations[fact.relation])
        if first_tokens[fact.object] != first_tokens[other.object]:
            phrasing = random_source.choice(fact.phrasings)
            drawn.append(Interchange(phrasing, fact.subject, other.subject, other.object))
    return drawn


def subject_last_position(tokenizer: PreTrainedTokenizerBase, phrasing: str, subject: str) -> int:
    """Index of the subject's last token in the filled phrasing."""
    through_subject = phrasing.split("{}")[0] + subject
    return len(tokenizer.encode(through_subject, add_special_tokens=False)) - 1


def replace_rows(
    states: Tensor, _module: nn.Module, _inputs: object, output: Tensor, *, positions: Tensor
) -> Tensor:
    """Forward hook: writes states (batch, hidden) at one position of each row of a block's output."""
    output = output.clone()
    output[torch.arange(len(states)), positions] = states
    return output


@torch.no_grad()
def interchange_shares(
    language_model: LanguageModel, pairs: Sequence[Interchange], *, at_subject: bool
) -> list[float]:
    """For each block, the share of prompts whose next token becomes the other answer's first token.

    The state swapped is the block's output at the subject's last token, or at the prompt's last token.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    prompts = [tokenizer.encode(p.phrasing.format(p.subject), add_special_tokens=False) for p in pairs]
    others = [tokenizer.encode(p.phrasing.format(p.other_subject), add_special_tokens=False) for p in pairs]
    wanted = torch.tensor(
        [tokenizer.encode(" " + p.other_answer, add_special_tokens=False)[0] for p in pairs]
    )
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    other_last = torch.tensor([len(other) - 1 for other in others])
    if at_subject:
        places = torch.tensor([subject_last_position(tokenizer, p.phrasing, p.subject) for p in pairs])
        other_places = torch.tensor(
            [subject_last_position(tokenizer, p.phrasing, p.other_subject) for p in pairs]
        )
    else:
        places, other_places = last, other_last
    rows = torch.arange(len(pairs))
    ids, mask = pad_right(others)
    captured: dict[int, Tensor] = {}
    blocks = [model.get_submodule(name) for name in language_model.anatomy.blocks]

    def capture(_module: nn.Module, _inputs: object, output: Tensor, *, number: int) -> None:
        captured[number] = output[rows, other_places]

    handles = [block.register_forward_hook(partial(capture, number=i)) for i, block in enumerate(blocks)]
    model(input_ids=ids, attention_mask=mask)
    for handle in handles:
        handle.remove()
    ids, mask = pad_right(prompts)
    shares = []
    for number, block in enumerate(blocks):
        hook = partial(replace_rows, captured[number], positions=places)
        handle = block.register_forward_hook(hook)
        logits = model(input_ids=ids, attention_mask=mask).logits
        handle.remove()
        shares.append(float((logits[rows, last].argmax(-1) == wanted).float().mean()))
    return shares
