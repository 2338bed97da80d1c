"""What is particular to LoRA."""

import pytest
import torch

from services.worker.editing.editor import Materials
from services.worker.editing.low_rank_adaptation import adapted_projections, adapters, factors, merged
from services.worker.language_models.weight_delta import LowRank, WeightDelta
from shared.editors import LoraHyperparameters
from tests.worker.editing.cases import ANATOMIES, EDITS, parameters_of, target_log_probs, tiny_language_model
from tests.worker.editing.table import TABLE, run

MERGED = 1e-3  # adapters beside the weights against their product inside them


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_merged_adapters_do_what_they_did_beside_the_weights(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    targets = adapted_projections(language_model.anatomy, [0, 2], "all")
    generator = torch.Generator().manual_seed(1)
    with adapters(language_model.model, targets, LoraHyperparameters(rank=3)) as adapted:
        for adapter in adapted.values():
            for factor in factors(adapter):
                factor.data = torch.randn(factor.shape, generator=generator) / 3
        beside = target_log_probs(language_model, EDITS)
        delta = WeightDelta({f"{path}.weight": merged(adapter) for path, adapter in adapted.items()}, "r1")
    assert not torch.allclose(target_log_probs(language_model, EDITS), beside, atol=0.1)
    with delta.applied(language_model):
        torch.testing.assert_close(target_log_probs(language_model, EDITS), beside, rtol=0, atol=MERGED)


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_attention_and_mlp_share_out_the_projections_of_a_block(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    attention, mlp, both = (
        set(adapted_projections(language_model.anatomy, [1], targets))
        for targets in ("attention", "mlp", "all")
    )
    assert attention.isdisjoint(mlp)
    assert attention | mlp == both
    assert language_model.anatomy.mlp_down_projections[1] in mlp
    assert all(path.startswith(language_model.anatomy.attentions[1]) for path in attention)


def test_deltas_have_the_rank_of_the_adapters() -> None:
    settings = TABLE["lora"].hyperparameters.model_copy(update={"rank": 3})
    outcome = run("lora", tiny_language_model("gpt2"), Materials(), hyperparameters=settings)
    for delta in parameters_of(outcome).values():
        assert isinstance(delta, LowRank)
        assert delta.left.shape[1] == delta.right.shape[0] == 3


def test_seed_of_the_adapters_tells() -> None:
    language_model = tiny_language_model("gpt2")
    settings = TABLE["lora"].hyperparameters
    first, second = (
        parameters_of(
            run(
                "lora",
                language_model,
                Materials(),
                hyperparameters=settings.model_copy(update={"seed": seed}),
            )
        )
        for seed in (0, 1)
    )
    name, *_ = first
    assert not torch.equal(
        first[name].dense(language_model.device), second[name].dense(language_model.device)
    )


def test_every_block_gets_adapters_unless_some_are_named() -> None:
    assert LoraHyperparameters().edited_layers(4) == (0, 1, 2, 3)
    assert LoraHyperparameters(layers=(1,)).edited_layers(4) == (1,)
