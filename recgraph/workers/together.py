"""What processes that train together do when one of them fails: all of them end, and say which one it was and why.

A process that ends cuts its connections, so that the others, who wait for it, get an error of the network. Each then
calls the roll, through the store by which they found one another: those that ended by themselves have written why, and
those that do not answer were killed. The launcher, too, ends the others (SIGTERM) where one has failed; what is known
is told first.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist

from recgraph.ranks import Ranks, connect, is_told, seconds_to_wait

__all__ = ["RankLost", "is_lone", "is_mine_to_tell", "together"]

#: seconds that a rank waits for the others to say how they ended, and the one that keeps the store for its readers
_TO_ANSWER, _TO_READ = 3.0, 1.0
_POLL = 0.02
#: mark of an error that is dealt with: which rank tells of it, and whether it is that rank's alone
_MARK = "_recgraph_told_by"
#: words of errors of torch that mean that another rank does not answer
_OF_NETWORK = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "tcpstore")
_log = logging.getLogger(__name__)
#: how often the roll was called; all ranks count alike
_n_calls = 0


class RankLost(ConnectionError):
    """Another of the processes that train together has failed, was killed, or does not answer.

    Attributes:
        ranks: which ones.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks


class _Asked(KeyboardInterrupt):
    """SIGTERM came."""


@dataclass(frozen=True)
class _Answer:
    """How a rank ended.

    Attributes:
        is_cause: whether by an error of its own, and not because others had ended.
        what: the error.
    """

    is_cause: bool
    what: str


@contextmanager
def together(kept: Callable[[], object] | None = None) -> Iterator[Ranks]:
    """The block that all ranks enter, and leave together where one of them fails; connects them first.

    Alone it does nothing. Blocks may lie in one another.

    Args:
        kept: the last good checkpoint, or None; named where another rank is lost.

    Raises:
        RankLost: another rank failed, was killed, or did not answer in time.
    """
    connect()
    ranks = Ranks.here()
    if ranks.count == 1:
        yield ranks
        return
    with _sigterm:
        try:
            yield ranks
        except GeneratorExit:  # nobody has left the block: it is forgotten
            raise
        except BaseException as error:  # also sys.exit, and panics of polars
            _sigterm.ignore()
            if is_told(error) or hasattr(error, _MARK):
                raise
            ended = _call_the_roll(error, ranks, kept)
            if ended is error:
                raise
            raise ended from error


def is_mine_to_tell(error: BaseException) -> bool:
    """Whether this process tells of an error, of those that end with it; the others are silent."""
    ranks = Ranks.here()
    by, _ = getattr(error, _MARK, (0 if is_told(error) else ranks.index, False))
    return bool(by == ranks.index)


def is_lone(error: BaseException) -> bool:
    """Whether the error is of this process and not of the others, which end because of it."""
    _, lone = getattr(error, _MARK, (0, False))
    return bool(lone)


class _Sigterm:
    """Context in which SIGTERM raises an exception, once; what is told of an error is told before the process ends.

    Of contexts in one another the outermost counts. Where the application handles the signal, that stays.
    """

    def __init__(self) -> None:
        self._depth, self._is_ours = 0, False

    def __enter__(self) -> None:
        self._depth += 1
        # only the main thread can handle signals
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._is_ours = self._is_ours or signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            if self._is_ours:
                signal.signal(signal.SIGTERM, self._handle)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._is_ours and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._is_ours = False

    def ignore(self) -> None:
        """From now on, until the process ends or the next context begins."""
        if self._is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _handle(self, *_: object) -> None:
        self.ignore()
        raise _Asked("ended on request (SIGTERM)")


_sigterm = _Sigterm()


def _call_the_roll(error: BaseException, ranks: Ranks, kept: Callable[[], object] | None) -> BaseException:
    """The error that this rank ends with, marked."""
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    here = _Answer(not _is_of_network(error) and not isinstance(error, _Asked), what)
    answers = _answers(here, ranks)
    if here.is_cause:
        alike = all(answer == here for answer in answers.values())
        return _marked(error, 0 if alike else ranks.index, lone=not alike)
    failed = {rank: answer.what for rank, answer in answers.items() if answer is not None and answer.is_cause}
    silent = [rank for rank, answer in answers.items() if answer is None]
    teller = min(rank for rank, answer in {**answers, ranks.index: here}.items() if answer and not answer.is_cause)
    last = kept() if kept is not None else None
    more = "" if kept is None else f"; last good checkpoint: {last or 'none'}"
    more += "; go on with resume=True (--resume)" if last else ""
    if not failed and not silent:
        if isinstance(error, _Asked):
            return _marked(_Asked(f"{error}{more}"), teller)
        return _marked(RankLost(f"the connection of the {ranks.count} ranks broke: {error}{more}"), teller)
    said = [f"rank {rank} ended with {what.splitlines()[0]}" for rank, what in failed.items()]
    if silent and not failed:
        why = "is gone: it was killed (out of memory?), or its machine or network failed"
        if "timed out" in str(error).lower():
            wait = f"{seconds_to_wait():g} s (RECGRAPH_RANKS_TIMEOUT)"
            why = f"did not answer within {wait}: it hangs, or does not do what the others do"
        said = [f"rank {rank} {why}" for rank in silent]
    return _marked(RankLost(f"{', '.join(said)}{more}", tuple(failed or silent)), teller)


def _marked(error: BaseException, teller: int, lone: bool = False) -> BaseException:
    setattr(error, _MARK, (teller, lone))
    return error


def _is_of_network(error: BaseException) -> bool:
    """Whether an error means that another rank does not answer."""
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error).lower() for word in _OF_NETWORK)


def _answers(here: _Answer, ranks: Ranks) -> dict[int, _Answer | None]:
    """Write how this rank ended -> how the others did; None where one does not answer."""
    global _n_calls
    _n_calls += 1
    prefix = f"recgraph/ended/{_n_calls}"
    others = [rank for rank in range(ranks.count) if rank != ranks.index]
    answers: dict[int, _Answer | None] = dict.fromkeys(others)
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"{prefix}/{ranks.index}", json.dumps([here.is_cause, here.what]))
        end = time.monotonic() + _TO_ANSWER
        while time.monotonic() < end and None in answers.values():
            for rank in [rank for rank in others if answers[rank] is None]:
                if store.check([f"{prefix}/{rank}"]):
                    answers[rank] = _Answer(*json.loads(store.get(f"{prefix}/{rank}")))
            time.sleep(_POLL)
        store.set(f"{prefix}/{ranks.index}/read", "")
        if ranks.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # it keeps the store
            end = time.monotonic() + _TO_READ
            read = [f"{prefix}/{rank}/read" for rank in others if answers[rank] is not None]
            while time.monotonic() < end and not all(store.check([name]) for name in read):
                time.sleep(_POLL)
    except Exception as error:  # of several types; the store ends with the process that keeps it
        _log.debug("the ranks' store is gone: %s", error)
        if answers.get(0) is None and not ranks.is_first:  # with rank 0, and of the others nothing is known
            answers = {rank: answer or (None if rank == 0 else _Answer(False, "")) for rank, answer in answers.items()}
    return answers
