"""What pre-training minimises: next tokens, and the objects read off the subject's last token.

Trained on plain sentences alone, a model this small recalls a fact at the prompt's last token in a late
layer. Large models enrich the subject's last token early, and that is where ROME and MEMIT write. Two
measures move recall there:

- enrichment heads, one linear map per relation, read the object of every relation the subject has off the
  hidden state at the subject's last token after `enriched_blocks` blocks; they are thrown away afterwards;
- in a share of rows, the blocks up to there keep tokens after a subject from attending to it, and no block
  lets them attend to any of its tokens but the last: the attribute must be read where the heads read it.

Noise on that hidden state gives recall a margin, so that an edit of one fact does not tip its neighbours.
It comes in screened rows only: elsewhere the model would learn to read around it, off the subject's other
tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from services.worker.almanac.facts import Fact

IGNORED = -100


class EnrichmentHeads(nn.Module):
    """Linear classifiers of each relation's objects."""

    labels: Tensor  # (subjects, relations) class of the object, or IGNORED

    def __init__(self, facts: Sequence[Fact], subjects: Sequence[str], hidden: int) -> None:
        super().__init__()
        relations = sorted({fact.relation for fact in facts})
        classes: dict[str, dict[str, int]] = {relation: {} for relation in relations}
        number_of = {subject: number for number, subject in enumerate(subjects)}
        labels = torch.full((len(subjects), len(relations)), IGNORED)
        for fact in facts:
            known = classes[fact.relation]
            column = relations.index(fact.relation)
            labels[number_of[fact.subject], column] = known.setdefault(fact.object, len(known))
        self.register_buffer("labels", labels, persistent=False)
        self.norm = nn.LayerNorm(hidden)
        self.maps = nn.ModuleList(nn.Linear(hidden, len(classes[relation])) for relation in relations)

    def forward(self, hidden: Tensor, subjects: Tensor) -> Tensor:
        """Mean cross-entropy over every (mention, relation of its subject).

        hidden: (mentions, hidden) states at the subjects' last tokens; subjects: (mentions,) int64.
        """
        labels = self.labels[subjects]  # (mentions, relations)
        normed = self.norm(hidden)
        total = hidden.new_zeros((), dtype=torch.float32)
        for column, head in enumerate(self.maps):
            chosen = (labels[:, column] != IGNORED).nonzero().squeeze(1)
            if len(chosen):
                logits = head(normed[chosen]).float()
                total = total + cross_entropy(logits, labels[chosen, column], reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)


def attention_masks(
    length: int, rows: Tensor, starts: Tensor, ends: Tensor, screened: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention masks, (batch, 1, length, length), for early and for later blocks: 0 or the least number.

    rows, starts, ends: (mentions,) the subjects' spans; screened: (batch,) bool, rows where tokens after a
    subject see nothing of it in early blocks and only its last token in later ones.
    """
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    early = causal.repeat(len(screened), 1, 1)
    late = early.clone()
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if screened[row]:
            early[row, end:, start:end] = False
            late[row, end:, start : end - 1] = False
    return additive(early), additive(late)


def additive(seen: Tensor) -> Tensor:
    """A bool mask (batch, length, length) as what is added to attention scores, with an axis for heads."""
    least = torch.finfo(torch.bfloat16).min
    return torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, least)[:, None]


def with_noise(states: Tensor, shares: Tensor) -> Tensor:
    """States plus Gaussian noise whose norm is a share of each state's own.

    states: (mentions, hidden); shares: (mentions,).
    """
    norms = states.detach().norm(dim=-1)
    per_coordinate: Tensor = (shares * norms / states.shape[-1] ** 0.5)[:, None]
    return states + per_coordinate * torch.randn_like(states)


def pretraining_loss(
    model: GPT2LMHeadModel,
    heads: EnrichmentHeads,
    input_ids: Tensor,
    position_ids: Tensor,
    target_weights: Tensor,
    mentions: tuple[Tensor, Tensor, Tensor, Tensor],
    screened: Tensor,
    enriched_blocks: int,
    noise: float,
) -> tuple[Tensor, Tensor]:
    """Weighted next-token loss and enrichment loss of one batch.

    input_ids, position_ids, target_weights: (batch, sequence); mentions: rows, starts, ends, subjects,
    each (mentions,); screened: (batch,) bool.
    """
    rows, starts, ends, subjects = mentions
    early, late = attention_masks(input_ids.shape[1], rows, starts, ends, screened)
    decoder = model.transformer
    hidden = decoder.wte(input_ids) + decoder.wpe(position_ids)  # (batch, sequence, hidden)
    enrichment = hidden.new_zeros(())
    for number, block in enumerate(decoder.h, start=1):
        hidden = block(hidden, attention_mask=early if number <= enriched_blocks else late)
        if number == enriched_blocks:
            noisy = with_noise(hidden[rows, ends - 1], noise * screened[rows])
            hidden = hidden.index_put((rows, ends - 1), noisy)
            enrichment = heads(noisy, subjects)
    logits = model.lm_head(decoder.ln_f(hidden[:, :-1]))
    losses = cross_entropy(
        logits.flatten(0, 1).float(), input_ids[:, 1:].flatten(), reduction="none"
    )  # (batch * (sequence - 1),)
    weights = target_weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum(), enrichment
