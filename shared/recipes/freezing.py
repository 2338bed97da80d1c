"""What keeps its weights while a recipe tunes: a short text, in one canonical form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

MAX_LENGTH = 200
MAX_VARIANTS = 20  # of one recipe

FreezeKind = Literal["none", "edited", "all_but_edited", "layers", "parameters"]

PLAIN: dict[str, FreezeKind] = {"none": "none", "edited": "edited", "all_but_edited": "all_but_edited"}
EDITED = re.compile(r"edited(?:±|\+-)([0-9]{1,4})")
RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
GLOB = re.compile(r"[A-Za-z0-9_.*?\[\]!-]+")
FORMS = (
    "'none', 'edited', 'edited±N', 'all_but_edited', 'layers:' with block indices and ranges (layers:0,3-5), "
    "or 'parameters:' with globs on parameter names (parameters:*.bias)"
)
DESCRIPTION = (
    "`none`; `edited`: the decoder blocks that the editor wrote to, whole; `edited±N` (or `edited+-N`): them "
    "and N blocks on either side; `all_but_edited`: all else, embeddings, final norm and head included; "
    "`layers:0,3-5`: these blocks; `parameters:*.bias,*.mlp.*`: every parameter whose dotted name matches a "
    "glob (`*` matches dots too)."
)
EXAMPLES = ("none", "edited", "edited±1", "all_but_edited", "layers:0,3-5", "parameters:*.bias")


class Freeze(str):
    """What keeps its weights while tuning, as text in its canonical form; see `DESCRIPTION`.

    Raises ValueError for a text of no known form. Texts that say the same in this form are equal: ranges
    are merged and sorted, globs are sorted. Which blocks and parameters a model has is not known here.
    """

    __slots__ = ()

    NONE: ClassVar[Freeze]
    EDITED: ClassVar[Freeze]
    ALL_BUT_EDITED: ClassVar[Freeze]

    def __new__(cls, text: str) -> Self:
        return super().__new__(cls, canonical(text))

    @property
    def kind(self) -> FreezeKind:
        """Which of the forms it has, without its numbers or names."""
        return PLAIN.get(self) or ("edited" if EDITED.fullmatch(self) else named_kind(self))

    @property
    def follows_edits(self) -> bool:
        """Whether it depends on the blocks that an editor wrote to."""
        return "edited" in self.kind

    @property
    def margin(self) -> int:
        """Blocks on either side of an edited one that are frozen with it."""
        found = EDITED.fullmatch(self)
        return int(found[1]) if found else 0

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that it lists, in order."""
        return listed_blocks(self.partition(":")[2]) if self.kind == "layers" else ()

    @property
    def globs(self) -> tuple[str, ...]:
        """The globs on parameter names that it lists."""
        return tuple(self.partition(":")[2].split(",")) if self.kind == "parameters" else ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(max_length=MAX_LENGTH)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "description": DESCRIPTION, "examples": list(EXAMPLES)}


def canonical(text: str) -> str:
    """The one way to write a freezing; raises ValueError for a text of no known form."""
    stripped = text.strip()
    margin = EDITED.fullmatch(stripped)
    if stripped in PLAIN:
        return stripped
    if margin:
        return f"edited±{int(margin[1])}" if int(margin[1]) else "edited"
    if named_kind(stripped) == "layers":
        return f"layers:{ranges(listed_blocks(stripped.partition(':')[2]), separator=',')}"
    globs = {glob.strip() for glob in stripped.partition(":")[2].split(",")}
    for glob in sorted(globs):
        if not GLOB.fullmatch(glob):
            raise ValueError(f"'{glob}' is no glob on the dotted name of a parameter, such as *.mlp.*")
    return f"parameters:{','.join(sorted(globs))}"


def named_kind(text: str) -> Literal["layers", "parameters"]:
    """The kind that stands before the colon; raises ValueError when none is known."""
    if text.startswith("layers:"):
        return "layers"
    if text.startswith("parameters:"):
        return "parameters"
    raise ValueError(f"'{text}' is not one of {FORMS}")


def listed_blocks(text: str) -> tuple[int, ...]:
    """Ascending block indices of a list of indices and ranges: 0,3-5."""
    blocks: set[int] = set()
    for part in text.split(","):
        found = RANGE.fullmatch(part.strip())
        if not found:
            raise ValueError(f"'{part}' is neither the index of a block nor a range of them, such as 3-5")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise ValueError(f"'{part}' ends before it begins")
        blocks.update(range(first, last + 1))
    return tuple(sorted(blocks))


def ranges(numbers: Iterable[int], separator: str = ", ") -> str:
    """Ascending numbers in few words: 0, 2-5, 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return separator.join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


Freeze.NONE = Freeze("none")
Freeze.EDITED = Freeze("edited")
Freeze.ALL_BUT_EDITED = Freeze("all_but_edited")
