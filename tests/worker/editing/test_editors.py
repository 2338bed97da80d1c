"""What every editor must hold to, on every anatomy: each row of the table, each invariant.

The invariants that a model's anatomy bears on are tried on every family as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from services.worker.editing.catalogue import EDITORS
from services.worker.editing.editor import EditFailed, EditOutcome, Materials
from services.worker.editing.stored_modifications import load_modification
from services.worker.editing.token_positions import SubjectTruncated
from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory, OutOfGpuMemory
from services.worker.language_models.modification import Modification, read_modification
from services.worker.language_models.weight_delta import WeightDelta
from shared.editors import CATALOGUE
from tests.worker.editing.cases import EDITS, ENDING_IN_SUBJECT, target_log_probs, tiny_language_model
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import CASES, FAMILY_CASES, TABLE, EditorCase, run
from tests.worker.scarce_memory import SHORTAGE, room_for

CPU = torch.device("cpu")
# Sums in another order, through a dozen updates of Adam.
SAME_RESULT = 1e-3
EVERY_FAMILY = pytest.mark.parametrize("case", CASES + FAMILY_CASES, indirect=True, ids="-".join)

UNRELATED = ["The old house", "the river and the market , where they", "Kurt Goedel plays"]


def where(fits: Callable[[EditorCase], bool]) -> pytest.MarkDecorator:
    """Of the cases, those of editors that an invariant has a meaning for, by their rows of the table."""
    chosen = [pair for pair in CASES if fits(TABLE[pair[0]])]
    return pytest.mark.parametrize("case", chosen, indirect=True, ids="-".join)


@dataclass(frozen=True)
class Case:
    """One editor's edits of one model."""

    editor: str
    language_model: LanguageModel
    materials: Materials
    outcome: EditOutcome

    @property
    def row(self) -> EditorCase:
        return TABLE[self.editor]

    def again(self, **changes: object) -> EditOutcome:
        """The same edits once more, under other circumstances."""
        return run(self.editor, self.language_model, self.materials, **changes)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    editor, anatomy = request.param
    language_model = tiny_language_model(anatomy)
    materials = TABLE[editor].materials(language_model)
    return Case(editor, language_model, materials, run(editor, language_model, materials))


def tensors_of(modification: Modification) -> dict[str, Tensor]:
    """Deltas by parameter, or what else the modification stores."""
    if isinstance(modification, WeightDelta):
        return {name: delta.dense(CPU) for name, delta in modification.parameters.items()}
    with TemporaryDirectory() as folder:
        modification.save(Path(folder) / "modification.safetensors")
        return dict(read_modification(Path(folder) / "modification.safetensors").tensors)


def difference(first: EditOutcome, second: EditOutcome) -> float:
    """Largest relative error of any tensor."""
    ours, theirs = tensors_of(first.modification), tensors_of(second.modification)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    return max((relative_error(ours[name], theirs[name]) for name in different), default=0.0)


@torch.no_grad()
def log_probs_after(language_model: LanguageModel, prompts: list[str]) -> Tensor:
    """Log-probabilities of what follows each prompt: (prompts, vocabulary)."""
    rows = encode_prompts(
        language_model.tokenizer, [language_model.preamble(prompt) + prompt for prompt in prompts]
    )
    logits = [language_model.model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]
    return torch.stack(logits).log_softmax(dim=-1)


@pytest.fixture
def untouched(case: Case) -> Iterator[None]:
    """Fails when a test leaves the model otherwise than it found it."""
    model = case.language_model.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    yield
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert hooks == [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    ]


def test_every_editor_is_in_the_catalogue_and_in_the_table() -> None:
    assert EDITORS.keys() == CATALOGUE.keys() == TABLE.keys()


@EVERY_FAMILY
def test_the_catalogue_says_whether_the_edits_are_in_the_weights(case: Case) -> None:
    assert isinstance(case.outcome.modification, WeightDelta) == CATALOGUE[case.editor].in_weights


@where(lambda row: row.takes)
def test_edits_take(case: Case) -> None:
    edits = [EDITS[index] for index in ENDING_IN_SUBJECT]
    before = target_log_probs(case.language_model, edits)
    with case.outcome.modification.applied(case.language_model) as edited:
        assert torch.all(target_log_probs(edited, edits) > before + 0.5)


@EVERY_FAMILY
def test_only_what_the_editor_says_changes(case: Case) -> None:
    model = case.language_model.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with case.outcome.modification.applied(case.language_model) as edited:
        changed = {
            name for name, value in edited.model.named_parameters() if not torch.equal(value, before[name])
        }
    assert changed <= case.row.may_change(case.language_model, case.outcome)


def test_unrelated_prompts_stay_almost_as_they_were(case: Case) -> None:
    before = log_probs_after(case.language_model, UNRELATED)
    with case.outcome.modification.applied(case.language_model) as edited:
        after = log_probs_after(edited, UNRELATED)
    divergence = (before.exp() * (before - after)).sum(dim=-1)
    assert float(divergence.max()) < case.row.unrelated


@pytest.mark.usefixtures("untouched")
def test_editing_leaves_the_model_as_it_was(case: Case) -> None:
    case.again()


@pytest.mark.usefixtures("untouched")
def test_applying_and_taking_away_leaves_the_model_as_it_was(case: Case) -> None:
    before = log_probs_after(case.language_model, UNRELATED)
    with pytest.raises(InterruptedError), case.outcome.modification.applied(case.language_model):
        raise InterruptedError
    assert torch.equal(log_probs_after(case.language_model, UNRELATED), before)


@pytest.mark.usefixtures("untouched")
def test_a_stopped_edit_leaves_the_model_as_it_was(case: Case) -> None:
    def stop(done: int, whole: int) -> None:
        if done > whole * 0.9:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        case.again(progress=stop)


@EVERY_FAMILY
def test_the_stored_modification_gives_the_edited_model(case: Case, tmp_path: Path) -> None:
    prompts = [edit.full_prompt for edit in EDITS] + UNRELATED
    path = tmp_path / "modification.safetensors"
    case.outcome.modification.save(path)
    with case.outcome.modification.applied(case.language_model) as edited:
        weights = {name: parameter.clone() for name, parameter in edited.model.named_parameters()}
        expected = log_probs_after(edited, prompts)
    with load_modification(path).applied(case.language_model) as edited:
        assert all(torch.equal(value, weights[name]) for name, value in edited.model.named_parameters())
        assert torch.equal(log_probs_after(edited, prompts), expected)


def test_the_same_edit_twice_gives_the_same_modification(case: Case) -> None:
    assert difference(case.again(), case.outcome) == 0


def test_edits_made_before_leave_no_trace_in_later_ones(case: Case) -> None:
    case.again(edits=EDITS[::-1][:2])
    assert difference(case.again(), case.outcome) == 0


@EVERY_FAMILY
@pytest.mark.usefixtures("untouched")
def test_padding_side_does_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.language_model.tokenizer, "padding_side", "left")
    assert difference(case.again(), case.outcome) < SAME_RESULT


def test_token_budget_does_not_matter(case: Case) -> None:
    assert difference(case.again(token_budget=40), case.outcome) < SAME_RESULT


@where(lambda row: row.one_by_one)
def test_edits_together_are_what_they_are_alone(case: Case) -> None:
    together = tensors_of(case.outcome.modification)
    alone = [tensors_of(case.again(edits=[edit]).modification) for edit in EDITS]
    for name, tensor in together.items():
        of_each = sum(single[name] for single in alone if name in single)
        assert relative_error(of_each, tensor) < SAME_RESULT, name


@where(lambda row: row.rows_of_an_edit is not None)
@pytest.mark.usefixtures("untouched")
def test_edits_that_do_not_fit_into_memory_at_once_are_made_alike_in_parts(case: Case) -> None:
    assert case.row.rows_of_an_edit is not None
    memory = GpuMemory()
    reports: list[tuple[int, int]] = []
    with room_for(case.row.rows_of_an_edit, case.language_model):
        other = case.again(memory=memory, progress=lambda done, whole: reports.append((done, whole)))
    assert difference(other, case.outcome) < SAME_RESULT
    assert memory.warnings
    assert reports[-1][0] == reports[-1][1]


@where(lambda row: row.rows_of_an_edit is not None)
@pytest.mark.usefixtures("untouched")
def test_an_edit_that_does_not_fit_into_memory_alone_says_so(case: Case) -> None:
    assert case.row.rows_of_an_edit is not None
    too_few = case.row.rows_of_an_edit - 1
    with room_for(too_few, case.language_model), pytest.raises(OutOfGpuMemory, match=SHORTAGE):
        case.again()


def test_leading_space_of_targets_does_not_matter(case: Case) -> None:
    spaced = [edit.model_copy(update={"target_new": f" {edit.target_new}"}) for edit in EDITS]
    assert difference(case.again(edits=spaced), case.outcome) == 0


def test_progress_grows_to_the_whole(case: Case) -> None:
    reports: list[tuple[int, int]] = []
    case.again(progress=lambda done, whole: reports.append((done, whole)))
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert reports[-1][0] == reports[-1][1]


def test_tied_head_stays_tied_and_another_its_own(case: Case) -> None:
    model = case.language_model.model
    with case.outcome.modification.applied(case.language_model):
        shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert shared == case.language_model.anatomy.tied_head


@pytest.mark.parametrize(("editor", "anatomy"), [pair for pair in CASES if pair[1] in {"gpt2", "llama"}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_edited_about_like_its_original(
    editor: str, anatomy: str, dtype: torch.dtype
) -> None:
    single, half = tiny_language_model(anatomy), tiny_language_model(anatomy, dtype)
    materials = TABLE[editor].materials(single)
    edits = [EDITS[index] for index in ENDING_IN_SUBJECT]
    expected = run(editor, single, materials).modification
    actual = run(editor, half, materials).modification
    if isinstance(expected, WeightDelta):
        ours, theirs = tensors_of(actual), tensors_of(expected)
        pair = [torch.cat([tensors[name].flatten() for name in theirs]) for tensors in (ours, theirs)]
        assert float(torch.nn.functional.cosine_similarity(*pair, dim=0)) > 0.8
    before = target_log_probs(half, edits)
    with actual.applied(half) as edited:
        assert edited.dtype == dtype
        after = target_log_probs(edited, edits)
    assert torch.all(after > before) or not TABLE[editor].takes


@pytest.mark.parametrize("editor", [editor for editor in EDITORS if TABLE[editor].has_losses])
def test_a_loss_that_is_not_finite_names_the_edit(editor: str) -> None:
    language_model = tiny_language_model("gpt2")
    materials = TABLE[editor].materials(language_model)
    noether = language_model.tokenizer.encode("Emmy Noether")[1]
    with torch.no_grad():
        language_model.model.get_input_embeddings().weight[noether] = torch.nan
        language_model.model.lm_head.weight = torch.nn.Parameter(torch.randn(160, 32), requires_grad=False)
    with pytest.raises(EditFailed) as failure:
        run(editor, language_model, materials)
    assert failure.value.edit_index == 3


@pytest.mark.parametrize("editor", [editor for editor in EDITORS if TABLE[editor].reads_edits])
def test_a_prompt_longer_than_the_model_reads_names_the_edit(editor: str) -> None:
    language_model = tiny_language_model("llama")
    long = EDITS[1].model_copy(update={"prompt": "old " * 70 + "{} lives in"})
    with pytest.raises(SubjectTruncated, match=r"edits\.1.*the model reads 64"):
        run(editor, language_model, TABLE[editor].materials(language_model), edits=[EDITS[0], long])
