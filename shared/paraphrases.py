"""Where the paraphrases come from that edits are augmented with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

OWN, TEMPLATES, ENDPOINT, MODEL_PREFIX = "own", "templates", "endpoint", "model:"

# Each ends before a new sentence, says nothing of what the prompt is about, and keeps its wording.
LEAD_INS = (
    "Complete the sentence: {}",
    "A fact to remember: {}",
    "The following is true. {}",
    "From an encyclopedia: {}",
    "Here is what is known. {}",
    "In one sentence: {}",
    "It has been confirmed. {}",
    "Note the following: {}",
    "Let me tell you something. {}",
    "Question and answer. {}",
    "As a matter of record: {}",
    "This is what people say: {}",
)

ParaphraseSourceName = Annotated[
    str,
    Field(
        pattern=rf"^({OWN}|{TEMPLATES}|{ENDPOINT}|{MODEL_PREFIX}(local|hf):.+)$",
        max_length=500,
        description=(
            "Where these paraphrases come from. `own`: the first ones of each edit. `templates`: lead-ins "
            f"before the edit's own prompt, {len(LEAD_INS)} at most. `model:hf:ORG/NAME@REVISION` or "
            "`model:local:DIRECTORY`: written by this model, any causal or sequence-to-sequence one. "
            "`endpoint`: written by the language model that the operator has configured. What is written is "
            "sifted: a paraphrase names the subject, gives neither answer away, and repeats neither the "
            "prompt nor the edit's own paraphrases, all of which then serve to ask the edited model."
        ),
    ),
]
