"""What the plan settles for editors: layers by causal tracing, corpora by content, and who does not apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, MixtralConfig

from services.worker.editing.causal_tracing import FEWEST_FACTS, trace_facts
from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import untold
from services.worker.steps.context import AuditContext
from services.worker.steps.failures import StepFailed
from services.worker.steps.order import work_on_audit
from services.worker.steps.settling import (
    TRACING_SEED,
    LayerTracing,
    settle_hyperparameters,
    traceable_facts,
)
from shared.editors import LayeredHyperparameters
from shared.edits import ControlFact
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from tests.support.parity_audit import parity_request
from tests.worker.editing.cases import EDITS
from tests.worker.steps.audits import audit_of, claimed, report_of, run_steps, steps_of
from tests.worker.tiny_models import LLAMA_LIKE, TOKEN_IDS, tiny_tokenizer

FEW_STEPS = {"v_num_grad_steps": 2, "mom2_tokens": 300, "context_count": 0}
AUTO = [
    {"name": "memit", "hyperparameters": {**FEW_STEPS, "layers": "auto"}},
    {"name": "ft_l", "hyperparameters": {"layers": "auto", "num_steps": 1}},
    {"name": "ft_l", "label": "fixed", "hyperparameters": {"layers": [0], "num_steps": 1}},
]


def short_request(**changes: Any) -> dict[str, Any]:
    """An audit with but one fine-tuning, of one step, per edited model."""
    body = parity_request(**changes)
    body["recipes"][0] |= {"freeze": ["none"], "steps": 1, "probe_count": 1}
    return body


def layers_of(context: AuditContext) -> dict[str, list[int]]:
    return {
        step.inputs["editor"]: step.inputs["hyperparameters"]["layers"]
        for step in steps_of(context, StepKind.EDIT)
    }


def planned(folder: Path, editors: list[dict[str, Any]], **changes: Any) -> AuditContext:
    """An audit of which the plan has run."""
    context = claimed(folder, parity_request(editors=editors, **changes))
    run_steps(context, 1)
    return context


def test_layers_left_to_tracing_are_those_traced_on_the_audits_own_facts(tmp_path: Path) -> None:
    context = planned(tmp_path, AUTO)
    request, language_model = context.request, context.language_model
    trace = trace_facts(
        language_model,
        traceable_facts(request.edits, request.controls.facts),
        seed=TRACING_SEED,
        batches=Batches(language_model.token_budget),
        progress=untold,
    )
    assert trace.facts > FEWEST_FACTS
    assert layers_of(context) == {"memit": list(trace.window), "ft_l": [trace.peak], "fixed": [0]}


def test_report_shows_what_was_traced_and_picked(tmp_path: Path) -> None:
    context = claimed(tmp_path, short_request(editors=AUTO[:2]))
    work_on_audit(context)
    tracing = report_of(context).tracing
    picked = layers_of(context)
    assert tracing is not None
    assert tracing.picked == {"memit": picked["memit"], "ft_l": picked["ft_l"]}
    assert len(tracing.states) == len(tracing.mlps) == 4
    assert tracing.corrupted < tracing.clean


def test_nothing_is_traced_when_no_editor_asks_for_it(tmp_path: Path) -> None:
    (plan,) = steps_of(planned(tmp_path, AUTO[2:]), StepKind.PLAN)
    assert plan.outcome is not None
    assert plan.outcome["tracing"] is None


def test_model_that_knows_too_few_facts_is_edited_by_depth_with_a_warning(tmp_path: Path) -> None:
    swapped = [
        {**edit, "target_new": edit["target_true"], "target_true": edit["target_new"]}
        for edit in parity_request()["edits"]
    ]
    context = claimed(tmp_path, short_request(editors=AUTO[:2], edits=swapped, controls={}))
    work_on_audit(context)
    assert layers_of(context) == {"memit": [1, 2], "ft_l": [2]}
    report = report_of(context)
    assert report.tracing is None
    (warning,) = (warning for warning in report.warnings if "causal tracing" in warning)
    assert "answers right, and it does so with 0 of 4" in warning
    assert warning.endswith("blocks by the model's depth were edited instead")


def test_control_facts_are_traced_where_their_subject_has_its_place_in_the_prompt() -> None:
    controls = [
        ControlFact(prompt="{} lives in", subject="Ada", answer="Rome"),
        ControlFact(prompt="Ada lives in", subject="Ada", answer="Rome"),
        ControlFact(prompt="Ada lives in", answer="Rome"),
    ]
    facts = traceable_facts(EDITS[:1], controls)
    assert [(fact.prompt, fact.answer) for fact in facts] == [
        ("{} lives in", "Rome"),
        ("{} lives in", "Rome"),
    ]


@pytest.fixture
def mixture() -> LanguageModel:
    """A model whose MLPs are mixtures of experts."""
    model = AutoModelForCausalLM.from_config(MixtralConfig(**LLAMA_LIKE, **TOKEN_IDS, num_local_experts=2))
    return prepare_language_model(model, tiny_tokenizer(), "tiny:mixtral", "r1")


def settled(language_model: LanguageModel, name: str, given: dict[str, Any]) -> Any:
    tracing = LayerTracing(language_model, [], lambda: pytest.fail("nothing is to be traced"))
    return settle_hyperparameters(language_model, name, given, tracing, called="mine")


def test_editor_that_needs_an_mlp_is_refused_for_a_mixture_of_experts_by_name(mixture: LanguageModel) -> None:
    with pytest.raises(StepFailed) as failure:
        settled(mixture, "memit", {"layers": "auto"})
    assert failure.value.cause is Cause.USER
    assert failure.value.reason == (
        "editor mine does not apply to MixtralForCausalLM: the MLP of block 0 is a mixture of experts"
    )


def test_editor_that_needs_no_mlp_applies_to_a_mixture_of_experts(mixture: LanguageModel) -> None:
    chosen = settled(mixture, "supplied", {"checkpoint": "local:edited"})
    assert not isinstance(chosen, LayeredHyperparameters)


def docstrings_for(folder: Path, texts: str) -> tuple[Path, list[dict[str, Any]]]:
    """A data root with a file of texts, and an editor whose statistics are taken over it."""
    folder.mkdir(exist_ok=True)
    (folder / "corpus.txt").write_text(texts)
    return folder, [{"name": "memit", "hyperparameters": {**FEW_STEPS, "mom2_corpus": "file:corpus.txt"}}]


def with_data_root(context: AuditContext, root: Path) -> AuditContext:
    context.settings = context.settings.model_copy(update={"data_roots": (root,)})
    return context


TEXTS = "They met in the old house.\n\nThe river was quiet.\n\nNobody came by.\n"


def test_key_statistics_over_a_named_corpus_are_recorded_with_its_size_and_split_half(tmp_path: Path) -> None:
    root, editors = docstrings_for(tmp_path / "data", TEXTS)
    context = with_data_root(claimed(tmp_path, short_request(editors=editors)), root)
    work_on_audit(context)
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    (used,) = report_of(context).key_statistics
    assert (used.editor, used.corpus) == ("memit", "file:corpus.txt")
    assert used.tokens == sum(
        len(ids) for ids in context.language_model.tokenizer(TEXTS.strip().split("\n\n"))["input_ids"]
    )
    assert set(used.split_half) == {1, 2}
    assert all(value > 0 for value in used.split_half.values())


def test_corpus_is_part_of_the_edits_key_by_its_content(tmp_path: Path) -> None:
    keys = []
    for texts in (TEXTS, TEXTS, TEXTS + "\nAnd one more day.\n"):
        root, editors = docstrings_for(tmp_path / "data", texts)
        folder = tmp_path / f"audit{len(keys)}"
        folder.mkdir()
        context = with_data_root(claimed(folder, parity_request(editors=editors)), root)
        run_steps(context, 1)
        keys.append(steps_of(context, StepKind.EDIT)[0].key)
    assert keys[0] == keys[1] != keys[2]


def test_corpus_that_changed_since_the_plan_is_not_used(tmp_path: Path) -> None:
    root, editors = docstrings_for(tmp_path / "data", TEXTS)
    context = with_data_root(claimed(tmp_path, parity_request(editors=editors)), root)
    run_steps(context, 1)
    docstrings_for(tmp_path / "data", TEXTS + "\nAnd one more day.\n")
    work_on_audit(context)
    (edit,) = steps_of(context, StepKind.EDIT)
    assert (edit.status, edit.cause) == (StepStatus.FAILED, Cause.USER)
    assert edit.error == "mom2_corpus: the texts changed since the audit began"
