"""Processes that fail together: which error each ends with, and which of them tells of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import forked
import pytest
from launched import environment, free_port, on_ranks

from recgraph.ranks import Ranks, of_all
from recgraph.workers.lock import FolderInUse
from recgraph.workers.together import RankLost, is_lone, is_mine_to_tell, together


def refuse_all() -> None:
    raise ValueError("unknown setting 'max_epoch'")


def refuse_on_first() -> None:
    def take() -> None:
        if Ranks.here().is_first:
            raise FolderInUse("runs/a is in use")

    of_all(take)


def interrupt() -> None:
    raise KeyboardInterrupt("interrupted in epoch 2")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fail_differently() -> None:
    raise KeyError(Ranks.here().index)


def _ends(acts: list[Callable[[], None]]) -> list[tuple[str, bool, bool]]:
    ended = []
    for act in acts:
        try:
            with together(lambda: "runs/a/checkpoints/step-2"), together():
                act()
        except (Exception, KeyboardInterrupt) as error:
            ended.append((f"{type(error).__name__}: {error}", is_mine_to_tell(error), is_lone(error)))
    return ended


def test_of_an_error_of_all_one_tells_and_of_different_ones_each() -> None:
    acts = [refuse_all, refuse_on_first, interrupt, terminate, fail_differently]
    first, second = on_ranks(2, _ends, acts)
    assert [what for what, _, _ in first[:3]] == [
        "ValueError: unknown setting 'max_epoch'",
        "FolderInUse: runs/a is in use",
        "KeyboardInterrupt: interrupted in epoch 2",
    ]
    assert first[3][0].startswith("_Asked: ended on request (SIGTERM)")
    assert [what for what, _, _ in second[:4]] == [what for what, _, _ in first[:4]]
    assert [mine for _, mine, _ in first[:4]] == [True] * 4
    assert [mine for _, mine, _ in second[:4]] == [False] * 4
    assert not any(lone for _, _, lone in (*first[:4], *second[:4]))
    assert (first[4], second[4]) == (("KeyError: 0", True, True), ("KeyError: 1", True, True))


def test_a_process_alone_raises_what_is_raised() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with together() as ranks:
        assert ranks == Ranks(0, 1)
    with pytest.raises(ValueError, match="max_epoch") as caught, together():
        refuse_all()
    assert is_mine_to_tell(caught.value)
    assert not is_lone(caught.value)
    assert signal.getsignal(signal.SIGTERM) is before


TWO_SECONDS = {"RECGRAPH_RANKS_TIMEOUT": "2"}


def hang() -> None:
    """On all ranks but the first."""
    try:
        with together(lambda: None) as ranks:
            if not ranks.is_first:
                time.sleep(600)
            of_all(lambda: 1)
    except RankLost as error:
        print(error, error.ranks)
        sys.exit(7)


def leave() -> None:
    """On all ranks but the first."""
    try:
        with together(lambda: None) as ranks:
            if not ranks.is_first:
                sys.exit(3)
            of_all(lambda: 1)
    except RankLost as error:
        print(error, error.ranks)
        sys.exit(7)


@contextmanager
def two_ranks(function: str) -> Iterator[list[forked.Printing]]:
    port = free_port()
    with ExitStack() as ends:
        yield [
            ends.enter_context(
                forked.call("test_together", function, env={**environment(rank, 2, port), **TWO_SECONDS})
            )
            for rank in range(2)
        ]


def test_a_process_that_exits_is_not_taken_for_one_that_was_killed() -> None:
    with two_ranks("leave") as ranks:
        assert [rank.wait() for rank in ranks] == [7, 3], ranks[0].error
        said = ranks[0].output
    assert said == "rank 1 ended with SystemExit: 3; last good checkpoint: none (1,)\n"


def test_a_process_that_does_not_answer_is_named_after_the_time_that_is_set() -> None:
    with two_ranks("hang") as ranks:
        assert ranks[0].wait() == 7, ranks[0].error
        said = ranks[0].output
    assert said.startswith("rank 1 did not answer within 2 s (RECGRAPH_RANKS_TIMEOUT): it hangs")
    assert said.endswith("last good checkpoint: none (1,)\n")


@pytest.mark.parametrize("text", ["0", "-1", "soon"])
def test_a_time_to_wait_is_a_number_above_0(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from recgraph.ranks import seconds_to_wait

    assert seconds_to_wait() == 600
    monkeypatch.setenv("RECGRAPH_RANKS_TIMEOUT", text)
    with pytest.raises(ValueError, match=r"RECGRAPH_RANKS_TIMEOUT = .* must be a number of seconds above 0"):
        seconds_to_wait()


def test_a_lost_rank_is_an_error_of_the_machine() -> None:
    """So that a command ends with 1, as for a full disk, and not as for a user's mistake."""
    assert issubclass(RankLost, OSError)
