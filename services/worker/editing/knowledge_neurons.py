"""Knowledge Neurons: turning what the neurons of a fact write (Dai et al. 2022, arXiv 2104.08696).

The paper edits BERT, in which an answer is one token. What differs for decoders is told in
`integrated_gradients`, `Fork`, `answer_turns` and `turned_slots`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from services.worker.editing.contexts import Contexts
from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.fact_neurons import Neurons, coarse_neurons, neurons_in_common, own_neurons
from services.worker.editing.integrated_gradients import IntegratedGradients
from services.worker.editing.token_positions import check_lengths, prompt_sequences
from services.worker.editing.traced_facts import common_length
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.weight_delta import LowRank, WeightDelta
from shared.editors import KnowledgeNeuronsHyperparameters
from shared.edits import Edit


class KnowledgeNeurons:
    """The editor `knowledge_neurons`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: KnowledgeNeuronsHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        facts = phrasings_of_facts(edits)
        forks = [fork_of(language_model, edit) for edit in edits]
        turns = answer_turns(language_model, [forks[first] for first, *_ in facts], hyperparameters)
        coarse = coarse_neurons(
            IntegratedGradients(language_model, layers, hyperparameters.steps),
            recalling_rows(language_model, edits, forks, materials.contexts),
            hyperparameters.adaptive_threshold,
            run.batches(language_model),
            run.progress,
        )
        common = [
            neurons_in_common([found for edit in fact for found in coarse[edit]], hyperparameters.p)
            for fact in facts
        ]
        chosen = own_neurons(common, hyperparameters.max_shared, hyperparameters.max_neurons)
        deltas = turned_slots(language_model, layers, chosen, turns)
        for layer, delta in deltas.items():
            run.trace.keep(f"layer{layer}.delta", partial(delta.dense, language_model.device))
        paths = language_model.anatomy.mlp_down_projections
        return EditOutcome(
            modification=WeightDelta(
                {f"{paths[layer]}.weight": delta for layer, delta in deltas.items()}, language_model.revision
            ),
            edited_layers=tuple(deltas),
            losses=(),
            warnings=without_neurons(facts, chosen),
        )


def phrasings_of_facts(edits: Sequence[Edit]) -> list[list[int]]:
    """Indices of edits, those together that ask for one change in several phrasings, as augmentation does."""
    facts: dict[tuple[str, str, str, str | None], list[int]] = {}
    for index, edit in enumerate(edits):
        change = (edit.subject, edit.target_true, edit.target_new, edit.relation)
        facts.setdefault(change, []).append(index)
    return list(facts.values())


@dataclass(frozen=True)
class Fork:
    """The two answers of an edit in token ids: what both begin with, and how each goes on, not empty."""

    common: tuple[int, ...]
    true: tuple[int, ...]
    new: tuple[int, ...]


def fork_of(language_model: LanguageModel, edit: Edit) -> Fork:
    """Where the answers of an edit part; where one is all that the other begins with, before its end."""
    true = tuple(encode_target(language_model.tokenizer, edit.target_true))
    new = tuple(encode_target(language_model.tokenizer, edit.target_new))
    parting = min(common_length(true, new), len(true) - 1, len(new) - 1)
    return Fork(true[:parting], true[parting:], new[parting:])


def recalling_rows(
    language_model: LanguageModel, edits: Sequence[Edit], forks: Sequence[Fork], contexts: Contexts
) -> list[list[PromptedTarget]]:
    """Per edit, its prompt in every context up to where its answers part, with the rest of the true one.

    Raises SubjectNotFound, or SubjectTruncated when a prompt and its answer exceed the context length.
    """
    prompts = prompt_sequences(language_model, edits, contexts.flat)
    check_lengths(language_model, prompts, [len(fork.common + fork.true) for fork in forks])
    return [
        [PromptedTarget(prompt.ids + fork.common, fork.true) for prompt in of_edit]
        for of_edit, fork in zip(prompts, forks, strict=True)
    ]


def answer_turns(
    language_model: LanguageModel, forks: Sequence[Fork], hyperparameters: KnowledgeNeuronsHyperparameters
) -> Tensor:
    """λ₂ e(new answer) − λ₁ e(true answer), each e of length 1: (forks, hidden) float32 (section 5.1).

    e is the head's row of the first token in which the answers differ; the tokens after it have to follow by
    themselves. Raises EditFailed when the rows do not fit the blocks.
    """
    head = language_model.model.get_parameter(f"{language_model.anatomy.head}.weight").detach()
    hidden_size = int(language_model.model.config.get_text_config(decoder=True).hidden_size)
    if head.shape[1] != hidden_size:
        raise EditFailed(f"the head reads {head.shape[1]} numbers, the blocks put out {hidden_size}")
    new = normalize(head[[fork.new[0] for fork in forks]].float())
    true = normalize(head[[fork.true[0] for fork in forks]].float())
    return hyperparameters.norm_lambda2 * new - hyperparameters.norm_lambda1 * true


def turned_slots(
    language_model: LanguageModel, layers: Sequence[int], facts: Sequence[Neurons], turns: Tensor
) -> dict[int, LowRank]:
    """By layer, what is added to the value slots (the rows W₂ that neurons are multiplied with).

    turns: of the facts, (facts, hidden). Each is added in norms of the slot, as in the paper's code, and
    with the sign of the neuron, which in gated MLPs is negative as often as not.
    """
    places = torch.cat([fact.places for fact in facts])
    signs = torch.cat([fact.activations for fact in facts]).sign()
    sizes = torch.tensor([len(fact.places) for fact in facts], device=places.device)
    owners = torch.arange(len(facts), device=places.device).repeat_interleave(sizes)
    deltas: dict[int, LowRank] = {}
    first = 0
    for layer in layers:
        weight, transposed = down_projection_weight(language_model.model, language_model.anatomy, layer)
        norms = torch.linalg.vector_norm(weight.detach().float(), dim=1 if transposed else 0)
        here = (places >= first) & (places < first + len(norms))
        slots = places[here] - first
        first += len(norms)
        turned, rows = torch.unique(owners[here], return_inverse=True)
        if len(turned):
            pushes = torch.zeros(len(turned), len(norms), device=places.device)
            pushes[rows, slots] = signs[here] * norms[slots]
            left, right = pushes.T, turns[turned]  # (neurons, facts), (facts, hidden)
            deltas[layer] = LowRank(left, right) if transposed else LowRank(right.T, left.T)
    return deltas


def without_neurons(facts: Sequence[Sequence[int]], chosen: Sequence[Neurons]) -> tuple[str, ...]:
    """A warning of the facts that are not edited, each by the first of its edits; none where all are."""
    left_out = [fact[0] for fact, neurons in zip(facts, chosen, strict=True) if not len(neurons.places)]
    if not left_out:
        return ()
    named = ", ".join(f"edits.{edit}" for edit in left_out)
    return (f"no neurons were found to which these facts are due and few others; not edited: {named}",)
