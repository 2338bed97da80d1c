"""What a rank and the process that started it tell each other, and how a rank ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError
from torch import Tensor

from services.worker.steps.failures import is_passing
from services.worker.tuning.errors import MicroBatchTooLarge, RankFailed
from services.worker.tuning.freezing import FrozenWeightsChanged
from services.worker.tuning.objectives import UNSCORED, Example, collate
from services.worker.tuning.sharded import messages
from services.worker.tuning.sharded.disk import system_errors
from services.worker.tuning.sharded.ranks import Rank, Ranks
from services.worker.tuning.sharded.start import RENDEZVOUS, Start, read_examples, write_examples
from services.worker.tuning.sharded.trainer import Share
from tests.worker.tuning.models import recipe

SECONDS = 60.0  # a rank that is to be found out as gone has imported torch by then


def collated(examples: list[Example]) -> dict[str, Tensor]:
    return collate(examples, pad_token_id=0)


def example(*tokens: int) -> Example:
    return Example(tokens, (UNSCORED, *tokens[1:]))


def test_every_example_of_a_micro_batch_is_in_one_share() -> None:
    examples = [example(number, number + 1) for number in range(2, 7)]
    shares = [Share(collated, rank, 3)(examples) for rank in range(3)]
    found = [int(row[0]) for share in shares for row in share["input_ids"]]
    assert sorted(found) == [2, 3, 4, 5, 6]


def test_share_without_an_example_has_something_to_run_and_nothing_to_learn() -> None:
    share = Share(collated, rank=1, processes=2)([example(5, 6, 7)])
    assert share["input_ids"].tolist() == [[5, 6, 7]]
    assert set(share["labels"].flatten().tolist()) == {UNSCORED}


def test_examples_come_back_as_they_were(tmp_path: Path) -> None:
    examples = (example(1, 2, 3), Example((4, 5, 6, 7), (UNSCORED, 5, UNSCORED, 7), (0, 1, 0, 1)), example(8))
    write_examples(examples, tmp_path / "examples")
    assert read_examples(tmp_path / "examples") == examples


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MicroBatchTooLarge(3), MicroBatchTooLarge(3)),
        (FrozenWeightsChanged(["a", "b"]), FrozenWeightsChanged(["a", "b"])),
        (KeyError("x"), RankFailed("process 2 failed: KeyError: 'x'")),
    ],
)
def test_error_of_a_rank_keeps_its_kind(error: Exception, raised: Exception) -> None:
    found = messages.error_of(json.loads(messages.error_line(error)), "process 2")
    assert (type(found), str(found), vars(found)) == (type(raised), str(raised), vars(raised))


def test_full_disk_is_told_from_other_failures() -> None:
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left") as caught, system_errors():
        raise SafetensorError(words)
    assert is_passing(caught.value)
    with pytest.raises(SafetensorError), system_errors():
        raise SafetensorError("invalid header")


def tell_to_wait(directory: Path) -> None:
    """Write what a rank begins with that then waits for another, which is never started."""
    Start(
        recipe=recipe(),
        frozen_blocks=(),
        frozen_parameters=(),
        learning=(),
        seed=0,
        micro_batch=1,
        processes=2,
        device="cpu",
        attention="sdpa",
        bfloat16_forward=False,
        threads=1,
    ).write(directory)


def test_rank_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    tell_to_wait(tmp_path)
    rank = Rank(tmp_path, 0)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / RENDEZVOUS).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rank.process.poll() is None
    assert rank.process.stdin is not None
    rank.process.stdin.close()  # as the kernel does when that process is gone
    assert rank.process.wait(SECONDS) == 1
    rank.end()


def test_rank_that_fails_exits_with_a_status(tmp_path: Path) -> None:
    rank = Rank(tmp_path, 0)  # which finds nothing to begin with
    assert rank.process.wait(SECONDS) == 1
    rank.end()


def test_rank_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with Ranks(tmp_path, 1) as ranks, pytest.raises(RankFailed, match=r"FileNotFoundError: .*start\.json"):
        ranks.hear()
