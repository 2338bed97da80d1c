"""Facts become probes."""

from __future__ import annotations

from services.worker.probing.probes import control_probes, edit_probes
from shared.edits import ControlFact, Edit
from shared.measurement import ProbeKind

EDIT = Edit(
    prompt="The mother tongue of {} is",
    subject="Danielle Darrieux",
    target_new="English",
    target_true="French",
    paraphrases=("Danielle Darrieux spoke", "Danielle Darrieux, a native", "Danielle Darrieux was raised in"),
    neighborhood=("Léon Blum is a native speaker of",),
    relation="language",
)


def test_rewrite_probes_ask_the_edits_own_prompt_for_the_new_answer() -> None:
    rewrite = edit_probes([EDIT], 0)[0]
    assert rewrite.prompt == "The mother tongue of Danielle Darrieux is"
    assert (rewrite.answer, rewrite.alternative) == ("English", "French")
    assert (rewrite.fact_id, rewrite.probe_kind, rewrite.relation) == (
        "edit:0",
        ProbeKind.REWRITE,
        "language",
    )


def test_neighborhood_probes_want_the_true_answer() -> None:
    neighbour = next(probe for probe in edit_probes([EDIT], 0) if probe.probe_kind is ProbeKind.NEIGHBORHOOD)
    assert (neighbour.answer, neighbour.alternative) == ("French", "English")


def test_paraphrases_that_an_editor_was_trained_on_are_not_probed() -> None:
    paraphrases = [probe for probe in edit_probes([EDIT], 2) if probe.probe_kind is ProbeKind.PARAPHRASE]
    assert [(probe.index, probe.prompt) for probe in paraphrases] == [(2, "Danielle Darrieux was raised in")]


def test_control_probes_fill_the_subject_in() -> None:
    fact = ControlFact(prompt="{} lies in", subject="Oslo", answer="Norway")
    probe = control_probes([fact])[0]
    assert (probe.fact_id, probe.prompt, probe.answer) == ("control:0", "Oslo lies in", "Norway")
