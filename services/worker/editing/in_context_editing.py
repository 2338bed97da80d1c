"""IKE: telling a model new facts in its context (Zheng et al. 2023, arXiv 2305.12740)."""

from collections.abc import Sequence

from services.worker.editing.contexts import BARE_PROMPT
from services.worker.editing.demonstrations import Demonstrations, NewFact
from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.target_rows import target_rows
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.progress import WorkDone
from shared.editors import InContextHyperparameters
from shared.edits import Edit


class InContextEditing:
    """The editor `ike`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: InContextHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        target_rows(language_model, edits, BARE_PROMPT)  # an edit that fits into no context fails here
        facts = tuple(
            NewFact(
                edit.full_prompt,
                edit.target_new.strip(),
                edit.target_true.strip(),
                edit.paraphrases,
                edit.neighborhood,
            )
            for edit in edits
        )
        WorkDone(run.progress, whole=1).finish()
        return EditOutcome(
            modification=Demonstrations(
                facts, hyperparameters.k, hyperparameters.answer_tokens, language_model.revision
            ),
            edited_layers=(),
            losses=(),
        )
