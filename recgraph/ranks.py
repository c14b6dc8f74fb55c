"""The processes that train one model together, *ranks*, that a launcher starts (torchrun,
accelerate, Slurm).

In a process that nobody launched there is one rank, and every function here gives back what it was
given. The gradient of a step, and the value of a term, is the *mean* over the ranks. So a mean over
the samples of a batch is weighted, on each rank, by :attr:`Share.weight`; what every rank computes
on :func:`gathered` rows needs no weight.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from recgraph.sparse.blocks import refuse_second_derivative

T = TypeVar("T")
#: words of torch's errors that mean that another rank does not answer
_OF_NETWORK = re.compile(
    "gloo|nccl|connection closed|connection reset|broken pipe|tcpstore", re.IGNORECASE
)


class RankFailed(ConnectionError):
    """Another of the processes that train together was killed, does not answer, or has failed and
    says why itself.
    """


def launched_rank() -> int | None:
    """The number that a launcher gave this process among several; None where nobody launched it as
    one of several.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return None
    return int(os.environ["RANK"])


def refuse_launched(what: str, instead: str) -> None:
    """Refuse ``what`` one process must run where a launcher has started several; ``instead`` says
    what to do.
    """
    if launched_rank() is not None:
        raise ValueError(
            f"{what} runs in one process, not in {os.environ['WORLD_SIZE']} (WORLD_SIZE): {instead}"
        )


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return not launched_rank()


@contextmanager
def together() -> Iterator[None]:
    """The block that all ranks enter: those that a launcher started are connected until the process
    ends. Alone it does nothing. A broken connection, as another rank failed or was killed, is a
    RankFailed.

    They exchange values through gloo, and on GPUs gradients through NCCL. A rank waits for the
    others for ``RECGRAPH_RANKS_TIMEOUT`` seconds, by default 600.
    """
    if launched_rank() is not None and not dist.is_initialized():
        _connect()
    ranks = Ranks.here()
    try:
        yield
    except RuntimeError as error:
        if ranks.count == 1 or not _OF_NETWORK.search(str(error)):
            raise
        raise RankFailed(
            f"rank {ranks.index} lost the others: one has failed or was killed; go on with resume=True (--resume)"
        ) from error


def _connect() -> None:
    """Meet the processes that a launcher started."""
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        local_rank = int(os.environ.get("LOCAL_RANK") or 0)
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    seconds = float(os.environ.get("RECGRAPH_RANKS_TIMEOUT", "600"))
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))


class Share:
    """The samples of a batch, ``rows``, that one rank computes, of ``sizes`` for each rank:
    consecutive ones, or ``dealt`` one by one, so that ranks have similar samples of an ordered
    batch. ``weight`` is what the mean over this rank's samples is multiplied by, so that the mean
    over ranks is the batch's."""

    def __init__(self, sizes: tuple[int, ...], index: int, dealt: bool = False) -> None:
        self.sizes, self.dealt = sizes, dealt
        self.is_whole = len(sizes) == 1
        self.rows = slice(None) if self.is_whole else self._rows_of(index)
        self.weight = len(sizes) * sizes[index] / sum(sizes)

    def _rows_of(self, rank: int) -> slice:
        if self.dealt:
            return slice(rank, sum(self.sizes), len(self.sizes))
        start = sum(self.sizes[:rank])
        return slice(start, start + self.sizes[rank])

    def gathered(self, x: Tensor) -> Tensor:
        """The rows of the whole batch, in its order, of this rank's rows; see :func:`gathered`."""
        if self.is_whole:
            return x
        rows = gathered(x, self.sizes)
        if self.dealt:
            rows = rows.index_select(0, self.places(x.device))
        return rows

    def places(self, device: torch.device) -> Tensor:
        """[n] int64: where each sample of the batch is among the samples of rank 0, then those of
        rank 1, ...
        """
        samples = torch.arange(sum(self.sizes), device=device)
        by_rank = [samples[self._rows_of(rank)] for rank in range(len(self.sizes))]
        return torch.cat(by_rank).argsort()


#: the share of a rank that computes the whole batch, whatever its size
WHOLE = Share((1,), 0)


@dataclass(frozen=True)
class Ranks:
    """Which of ``count`` processes this one is, from 0; rank 0 writes."""

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The place of this process in the group that is connected; alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share_of_batch(self, n_samples: int, dealt: bool = False) -> Share:
        """This rank's share of a batch; sizes differ by one at most. Of fewer samples than ranks
        each has all.
        """
        if n_samples < self.count:
            return WHOLE
        least, more = divmod(n_samples, self.count)
        sizes = (least + 1,) * more + (least,) * (self.count - more)
        return Share(sizes, self.index, dealt)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        # collectives want equal shapes: the rows that are short are padded
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        return torch.cat([part[:size] for part, size in zip(stacked(padded), sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        refuse_second_derivative("rows of several ranks")
        # the losses of all ranks read these rows: the sum of their gradients, of which the mean
        # over ranks is taken
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole[Share(ctx.sizes, dist.get_rank()).rows], None


def gathered(x: Tensor, sizes: tuple[int, ...] | None = None) -> Tensor:
    """[sum of n, ...]: the rows [n, ...] of all ranks, in the order of the ranks, with gradient;
    ``sizes`` are n of each rank, where they are known. All ranks take part in the backward,
    whatever each one's loss reads."""
    if Ranks.here().count == 1:
        return x
    rows: Tensor = _Gathered.apply(x, sizes or tuple(all_values(len(x))))  # type: ignore[no-untyped-call]
    return rows


def stacked(x: Tensor) -> Tensor:
    """[ranks, *x.shape] the tensors of all ranks, of one shape, without gradient."""
    row = x[None]
    count = Ranks.here().count
    if count == 1:
        return row
    rows = x.new_empty(count, *x.shape)
    dist.all_gather_into_tensor(rows, row.contiguous())
    return rows


def all_values(value: T) -> list[T]:
    """The values of all ranks, by rank; any object that can be pickled."""
    values: list[Any] = [value] * Ranks.here().count
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def of_all(make: Callable[[], T]) -> list[T]:
    """What ``make()`` gives on each rank, by rank; where it raises on one, the others raise a
    :class:`RankFailed`. It must not communicate: a rank on which it fails would leave the others
    waiting."""
    result: Any = None
    failure: Exception | None = None
    message = None
    try:
        result = make()
    except Exception as error:
        failure = error
        message = f"{type(error).__name__}: {error}"
    outcomes = all_values((result, message))
    for rank, (_, reason) in enumerate(outcomes):
        if reason is None:
            continue
        if failure is not None and rank == Ranks.here().index:
            raise failure
        raise RankFailed(f"rank {rank}: {reason}")
    return [value for value, _ in outcomes]


def first_does(act: Callable[[], object]) -> None:
    """Have the process that writes do something, :func:`of_all`; processes that are not connected
    do not wait.
    """
    of_all(lambda: act() if is_first() else None)
