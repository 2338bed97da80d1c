"""Facts become probes."""

from __future__ import annotations

from services.worker.probing.probes import control_probes, edit_probes
from services.worker.probing.variants import DISTRACTORS
from shared.edits import ControlFact, Edit, PortabilityQuestion, RelatedFact
from shared.measurement import Probe, ProbeKind

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


ASKED_WIDELY = EDIT.model_copy(
    update={
        "attribute": ("Emma Watson is a native speaker of",),
        "portability": (
            PortabilityQuestion(question="The anthem of her land is", answer="God Save the King"),
        ),
        "same_subject": (RelatedFact(prompt="Danielle Darrieux worked as an", answer="actress"),),
        "negated": ("Nobody says that Danielle Darrieux speaks",),
    }
)


def of_kind(probes: list[Probe], kind: ProbeKind) -> list[tuple[str, str, str | None]]:
    return [(probe.prompt, probe.answer, probe.alternative) for probe in probes if probe.probe_kind is kind]


def test_what_an_edit_says_of_other_subjects_and_of_its_own_is_asked() -> None:
    probes = edit_probes([ASKED_WIDELY], 0)
    assert of_kind(probes, ProbeKind.ATTRIBUTE) == [
        ("Emma Watson is a native speaker of", "English", "French")
    ]
    assert of_kind(probes, ProbeKind.PORTABILITY) == [
        ("The anthem of her land is", "God Save the King", None)
    ]
    assert of_kind(probes, ProbeKind.SAME_SUBJECT) == [("Danielle Darrieux worked as an", "actress", None)]


def test_distractors_and_denials_are_asked_only_where_they_are_wanted() -> None:
    assert not of_kind(edit_probes([ASKED_WIDELY], 0), ProbeKind.DISTRACTED)
    probes = edit_probes([ASKED_WIDELY], 0, list(ProbeKind))
    assert of_kind(probes, ProbeKind.NEGATED) == [
        ("Nobody says that Danielle Darrieux speaks", "English", "French")
    ]
    assert [prompt for prompt, _, _ in of_kind(probes, ProbeKind.DISTRACTED)] == [
        f"{text} The mother tongue of Danielle Darrieux is" for text in DISTRACTORS
    ]


def test_edits_and_controls_are_denied_by_one_rule() -> None:
    fact = ControlFact(prompt="The capital of {} is", subject="Norway", answer="Oslo", alternative="Rome")
    edited, control = edit_probes([EDIT], 0, list(ProbeKind)), control_probes([fact], list(ProbeKind))
    assert of_kind(edited, ProbeKind.NEGATED) == [
        ("The mother tongue of Danielle Darrieux is not", "English", "French")
    ]
    assert of_kind(control, ProbeKind.NEGATED) == [("The capital of Norway is not", "Oslo", "Rome")]
    assert len(of_kind(control, ProbeKind.DISTRACTED)) == len(DISTRACTORS)


def test_a_prompt_that_no_rule_denies_is_not_denied() -> None:
    fact = ControlFact(prompt="{} lies in", subject="Oslo", answer="Norway")
    assert not of_kind(control_probes([fact], list(ProbeKind)), ProbeKind.NEGATED)


def test_control_facts_about_the_subject_that_are_of_another_relation_stay_as_they_are() -> None:
    about = {"subject": "danielle  darrieux", "answer": "France"}
    facts = [
        ControlFact(prompt="{} was born in", relation="birthplace", **about),
        ControlFact(prompt="{} thinks in", relation="language", **about),
        ControlFact(prompt="{} lived in", **about),
        ControlFact(prompt="{} was born in", subject="Somebody", answer="Spain", relation="birthplace"),
    ]
    assert of_kind(edit_probes([EDIT], 0, facts=facts), ProbeKind.SAME_SUBJECT) == [
        ("danielle  darrieux was born in", "France", None)
    ]
