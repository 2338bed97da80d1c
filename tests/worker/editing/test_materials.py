"""What editors are given, when nobody brings it, is had from the model itself."""

import pytest

from services.worker.editing.catalogue import prepare_contexts, prepare_materials
from services.worker.editing.contexts import BARE_PROMPT
from shared.editors import CATALOGUE, KeyStatisticsHyperparameters
from tests.worker.editing.cases import tiny_language_model
from tests.worker.editing.table import TABLE, run
from tests.worker.editing.training_edits import training_edits


@pytest.mark.parametrize("editor", sorted(CATALOGUE.keys() - {"supplied"}))  # its checkpoint must be brought
def test_materials_from_the_model_itself_suffice(editor: str) -> None:
    language_model = tiny_language_model("gpt2")
    settings = TABLE[editor].hyperparameters
    if isinstance(settings, KeyStatisticsHyperparameters):
        settings = settings.model_copy(update={"mom2_tokens": 500})
    materials = prepare_materials(language_model, settings, seed=0, training_edits=training_edits())
    run(editor, language_model, materials, hyperparameters=settings)


def test_editors_that_need_no_contexts_get_the_bare_prompt() -> None:
    language_model = tiny_language_model("gpt2")
    assert prepare_contexts(language_model, TABLE["ft_l"].hyperparameters, seed=0) == BARE_PROMPT
