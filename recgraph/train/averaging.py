"""The gradient of a step on several ranks: the mean of theirs, made between ``backward()`` and the step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recgraph.ranks import Ranks, gathered, stacked
from recgraph.rows import is_row_sparse, row_gradient, summed_rows
from recgraph.shards import built_in_parts, is_sharded

__all__ = ["Averaging"]

# numbers of a gradient from which on it is averaged where it is; smaller ones travel together
_LARGE = 1 << 16


class Averaging:
    """Averages gradients over ranks, in place; does nothing where there is one rank.

    Gradients are the same on all ranks afterwards, bit for bit. A parameter without a gradient counts as zeros where
    another rank has one, and stays without one where none has. Row-sparse gradients (:mod:`recgraph.rows`) become the
    rows of all ranks, which costs what they touch; those of sharded tables are means already. With the gradients
    travels whether a rank was asked to stop, so that all stop after the same step.

    Args:
        ranks: that train the model together.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._asked: Tensor | None = None
        self._known: dict[tuple[float, ...], Tensor] = {}

    @torch.no_grad()
    def align(self, model: nn.Module) -> None:
        """Give all ranks the parameters and buffers of rank 0; of a table built in parts each keeps its own."""
        if self.ranks.count == 1:
            return
        in_parts = built_in_parts(model)
        for name, value in model.state_dict().items():
            if name in in_parts:
                continue
            same = value.detach().contiguous()
            dist.broadcast(same, src=0)
            value.copy_(same)

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter], asked: bool = False) -> None:
        """Replace each gradient by the mean over ranks.

        Args:
            parameters: the same on all ranks, in the same order.
            asked: whether this rank was asked to stop.
        """
        if self.ranks.count == 1:
            return
        given = list(parameters)
        every = [one for one in given if not is_sharded(one)]
        rows, dense = [one for one in every if _has_rows(one)], [one for one in every if not _has_rows(one)]
        grads = [torch.zeros_like(one) if one.grad is None else one.grad.contiguous() for one in dense]
        large = [grad for grad in grads if grad.numel() >= _LARGE]
        under_way = [dist.all_reduce(grad, async_op=True) for grad in large]
        has = [float(one.grad is not None) for one in dense]
        told = self._placed((*has, float(asked)), given[0].device)
        told = self._summed_together(told, [grad for grad in grads if grad.numel() < _LARGE])
        for one in under_way:
            one.wait()
        if grads:
            torch._foreach_div_(grads, self.ranks.count)
        self._asked = told[-1]
        # what other ranks have is read, which waits for the device, where this one lacks a gradient alone
        others = has if all(has) else told.tolist()
        for parameter, grad, n_ranks in zip(dense, grads, others, strict=False):
            parameter.grad = grad if n_ranks else None
        for parameter in rows:
            parameter.grad = self._rows_of_all(parameter)

    def is_asked(self, asked: bool, may_wait: bool = True) -> bool:
        """Whether a rank was asked to stop, as all ranks know it since the last step.

        Args:
            asked: whether this one was; what counts where it is alone.
            may_wait: whether to wait for an accelerator; False gives False there. The same on all ranks.
        """
        if self.ranks.count == 1:
            return asked
        if self._asked is None or not (may_wait or self._asked.is_cpu):
            return False
        return bool(self._asked > 0)

    def _placed(self, told: tuple[float, ...], device: torch.device) -> Tensor:
        """What is told, on the device: almost always the same, and a copy from the host would wait."""
        if told not in self._known:
            self._known[told] = torch.tensor(told, device=device)
        return self._known[told].clone()

    def _summed_together(self, told: Tensor, grads: list[Tensor]) -> Tensor:
        """Sum small gradients over ranks in one message for each type, in place; what is told goes with the first."""
        of_type: dict[torch.dtype, list[Tensor]] = {}
        for grad in grads:
            of_type.setdefault(grad.dtype, []).append(grad)
        first = next(iter(of_type), told.dtype)
        of_type[first] = [*of_type.get(first, []), told.to(first)]
        for together in of_type.values():
            flat = torch.cat([grad.reshape(-1) for grad in together])
            dist.all_reduce(flat)
            for grad, part in zip(together, torch.split(flat, [grad.numel() for grad in together]), strict=True):
                grad.copy_(part.view_as(grad))
        return of_type[first][-1]

    def _rows_of_all(self, table: nn.Parameter) -> Tensor:
        index, values = torch.zeros(0, dtype=torch.int64, device=table.device), table[:0]
        if table.grad is not None:
            index, values = summed_rows(table.grad)
        sizes = tuple(stacked(index.new_tensor(len(index))).tolist())
        index, values = gathered(index, sizes), gathered(values, sizes)
        return row_gradient(index, values / self.ranks.count, len(table))


def _has_rows(parameter: nn.Parameter) -> bool:
    """Whether the gradient is row-sparse, or would be."""
    return is_row_sparse(parameter) if parameter.grad is None else parameter.grad.is_sparse
