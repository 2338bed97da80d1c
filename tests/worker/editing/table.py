"""The table of cases: how each editor is set for the tiny models, and what is to be expected of it."""

import atexit
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from services.worker.editing.catalogue import EDITORS, prepare_hypernetwork
from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.gradient_factors import mlp_weights
from services.worker.language_models.anatomy import linear_layers
from services.worker.language_models.loading import LanguageModel
from shared.editors import (
    AlphaEditHyperparameters,
    ConstrainedFineTuningHyperparameters,
    EmmetHyperparameters,
    GraceHyperparameters,
    Hyperparameters,
    InContextHyperparameters,
    KnowledgeNeuronsHyperparameters,
    LoraHyperparameters,
    MaskedFineTuningHyperparameters,
    MemitHyperparameters,
    MendHyperparameters,
    PmetHyperparameters,
    SuppliedHyperparameters,
    UltraEditHyperparameters,
    UnconstrainedFineTuningHyperparameters,
    WiseHyperparameters,
)
from shared.editors.r_rome import RRomeHyperparameters
from shared.editors.rome import RomeHyperparameters
from tests.worker.editing.cases import (
    ANATOMIES,
    CONTEXTS,
    EDITS,
    FAMILIES,
    TOKEN_BUDGET,
    tiny_statistics,
)
from tests.worker.editing.training_edits import training_edits


def down_projections(language_model: LanguageModel, outcome: EditOutcome) -> set[str]:
    """Weights and biases of the MLP down-projections of the edited layers."""
    paths = [language_model.anatomy.mlp_down_projections[layer] for layer in outcome.edited_layers]
    names = [name for name, _ in language_model.model.named_parameters()]
    return {name for name in names if name.rpartition(".")[0] in paths}


def projections(language_model: LanguageModel, outcome: EditOutcome) -> set[str]:
    """Weights of the linear projections of the edited blocks."""
    blocks = [language_model.anatomy.blocks[layer] for layer in outcome.edited_layers]
    return {
        f"{block}.{path}.weight"
        for block in blocks
        for path, _, _ in linear_layers(language_model.model.get_submodule(block))
    }


def no_parameters(_language_model: LanguageModel, _outcome: EditOutcome) -> set[str]:
    """Of an editor that leaves the weights alone."""
    return set()


def with_statistics(language_model: LanguageModel) -> Materials:
    """Key statistics over random words, and two contexts beside the bare prompt."""
    return Materials(statistics=tiny_statistics(language_model), contexts=CONTEXTS)


def edited_elsewhere(language_model: LanguageModel) -> Materials:
    """The model as MEMIT edits it, in a directory."""
    row = TABLE["memit"]
    outcome = run("memit", language_model, row.materials(language_model))
    folder = Path(mkdtemp(prefix="holdfast-supplied-"))
    atexit.register(rmtree, folder)
    language_model.tokenizer.save_pretrained(folder)
    with outcome.modification.applied(language_model) as edited:
        edited.model.save_pretrained(folder)
    return Materials(supplied=folder)


def with_hypernetwork(language_model: LanguageModel) -> Materials:
    """A hypernetwork that learnt from edits of other subjects."""
    settings = TABLE["mend"].hyperparameters
    hypernetwork = prepare_hypernetwork(language_model, settings, training_edits())
    return Materials(hypernetwork=hypernetwork)


def mlp_projections(language_model: LanguageModel, outcome: EditOutcome) -> set[str]:
    """Weights of the up- and down-projections of the edited blocks' MLPs."""
    return {weight.name for weight in mlp_weights(language_model, outcome.edited_layers)}


def with_contexts(_language_model: LanguageModel) -> Materials:
    """Two contexts beside the bare prompt."""
    return Materials(contexts=CONTEXTS)


def nothing(_language_model: LanguageModel) -> Materials:
    """No materials."""
    return Materials()


@dataclass(frozen=True)
class EditorCase:
    """One editor's row in the table.

    materials: what it is given. may_change: names of the parameters that an edited model may have other
    values of. rows_of_an_edit: sequences that one edit takes in the widest batch, None where the editor does
    not split its batches. one_by_one: whether a batch of edits gives the sum of what the edits give alone.
    has_losses: whether it optimises something. takes: whether random models take its edits (in-context
    learning is beyond them). reads_edits: whether it reads the edits at all. anatomies,
    families: all, unless its method does not apply to some.
    unrelated: largest divergence, in nats, of what follows prompts that have nothing to do with the edits.
    """

    hyperparameters: Hyperparameters
    materials: Callable[[LanguageModel], Materials] = nothing
    may_change: Callable[[LanguageModel, EditOutcome], set[str]] = down_projections
    rows_of_an_edit: int | None = 1
    one_by_one: bool = False
    has_losses: bool = True
    takes: bool = True
    reads_edits: bool = True
    anatomies: tuple[str, ...] = field(default=ANATOMIES)
    families: tuple[str, ...] = field(default=FAMILIES)
    unrelated: float = 1.0


# Random models need larger changes, and fewer steps do.
QUICK_TARGETS: dict[str, Any] = {"v_num_grad_steps": 12, "clamp_norm_factor": 4.0, "v_weight_decay": 0.01}

TABLE: dict[str, EditorCase] = {
    "rome": EditorCase(
        RomeHyperparameters(layers=(2,), **QUICK_TARGETS),
        materials=with_statistics,
        rows_of_an_edit=4,  # three contexts and the essence
        one_by_one=True,
        unrelated=8.0,
    ),
    "r_rome": EditorCase(
        RRomeHyperparameters(layers=(2,), **QUICK_TARGETS),
        materials=with_statistics,
        rows_of_an_edit=4,  # three contexts and the essence
        one_by_one=True,
        unrelated=8.0,
    ),
    "memit": EditorCase(
        MemitHyperparameters(
            layers=(1, 2),
            v_num_grad_steps=12,
            clamp_norm_factor=4.0,
            v_weight_decay=0.01,
            mom2_update_weight=0.1,
        ),
        materials=with_statistics,
        rows_of_an_edit=4,  # three contexts and the essence
    ),
    "alphaedit": EditorCase(
        AlphaEditHyperparameters(
            layers=(1, 2),
            v_num_grad_steps=12,
            clamp_norm_factor=4.0,
            v_weight_decay=0.01,
            null_space_threshold=0.1,
            L2=0.1,
            batch_size=3,
        ),
        materials=with_statistics,
        rows_of_an_edit=4,  # three contexts and the essence
    ),
    "ft": EditorCase(
        UnconstrainedFineTuningHyperparameters(layers=(2,), num_steps=10, lr=0.01),
        unrelated=8.0,
    ),
    "emmet": EditorCase(
        EmmetHyperparameters(
            layers=(1, 2),
            v_num_grad_steps=12,
            clamp_norm_factor=4.0,
            v_weight_decay=0.01,
            mom2_update_weight=1.0,
        ),
        materials=with_statistics,
        rows_of_an_edit=4,  # three contexts and the essence
    ),
    "pmet": EditorCase(
        PmetHyperparameters(
            layers=(1, 2),
            v_num_grad_steps=12,
            v_lr=0.5,
            clamp_norm_factor=4.0,
            v_weight_decay=0.01,
            kl_factor=0.0625,
            mom2_update_weight=0.1,
        ),
        materials=with_statistics,
        rows_of_an_edit=4,  # three contexts and the essence
    ),
    "ultraedit": EditorCase(
        UltraEditHyperparameters(layers=(1, 2), lr=0.01, batch_size=3),
        unrelated=8.0,
    ),
    "ft_l": EditorCase(
        ConstrainedFineTuningHyperparameters(layers=(2,), num_steps=10, lr=0.01, norm_constraint=0.05),
        unrelated=8.0,
    ),
    "ft_m": EditorCase(
        MaskedFineTuningHyperparameters(layers=(2,), num_steps=10, lr=0.01),
        unrelated=8.0,
    ),
    "lora": EditorCase(
        LoraHyperparameters(layers=(1, 2), targets="all", num_steps=10, lr=0.02),
        may_change=projections,
        unrelated=8.0,
    ),
    "mend": EditorCase(
        MendHyperparameters(
            layers=(1, 2, 3),
            training_steps=60,
            edits_at_once=4,
            training_lr=3e-3,
            edit_lr=3e-3,
            edit_loss_weight=1.0,
            rank=16,
        ),
        materials=with_hypernetwork,
        may_change=mlp_projections,
        one_by_one=True,
        unrelated=8.0,
    ),
    "grace": EditorCase(
        GraceHyperparameters(layers=(2,), n_iter=20, edit_lr=0.5, eps=0.5),
        may_change=no_parameters,
    ),
    "supplied": EditorCase(
        SuppliedHyperparameters(checkpoint="local:edited"),
        materials=edited_elsewhere,
        rows_of_an_edit=None,
        has_losses=False,
        reads_edits=False,
    ),
    "ike": EditorCase(
        InContextHyperparameters(k=2, answer_tokens=8),
        may_change=no_parameters,
        rows_of_an_edit=None,
        has_losses=False,
        takes=False,
        unrelated=20.0,
    ),
    "wise": EditorCase(
        WiseHyperparameters(
            layers=(2,),
            n_iter=20,
            edit_lr=0.05,
            edits_per_shard=2,
            mask_ratio=0.6,
            alpha=0.5,
            beta=4.0,
            gamma=2.0,
            irrelevant_count=5,
            irrelevant_length=20,
        ),
        materials=with_contexts,
        may_change=no_parameters,
    ),
    "knowledge_neurons": EditorCase(
        KnowledgeNeuronsHyperparameters(
            steps=4, adaptive_threshold=0.1, p=0.5, max_shared=1.0, norm_lambda2=3.0
        ),
        materials=with_contexts,
        rows_of_an_edit=4,  # the steps
        one_by_one=True,
        unrelated=8.0,
    ),
}
CASES = [(editor, anatomy) for editor, case in TABLE.items() for anatomy in case.anatomies]
FAMILY_CASES = [(editor, family) for editor, case in TABLE.items() for family in case.families]


def run(editor: str, language_model: LanguageModel, materials: Materials, **changes: Any) -> EditOutcome:
    """Make EDITS with the table's hyperparameters; `changes` to those, to the edits or to the run."""
    edits = changes.pop("edits", EDITS)
    hyperparameters = changes.pop("hyperparameters", TABLE[editor].hyperparameters)
    editing = replace(EditingRun(token_budget=TOKEN_BUDGET), **changes)
    return EDITORS[editor].edit(language_model, edits, hyperparameters, materials, editing)
