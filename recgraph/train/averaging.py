"""The gradient of a step on several ranks: the mean of theirs, made between ``backward()`` and the step.

Not by DistributedDataParallel: its hooks want every parameter in every backward, and phases step groups in turn.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recgraph.ranks import Ranks, all_values, gathered
from recgraph.sparse.rows import is_sparse


class Averaging:
    """Averages gradients over ranks, in place; does nothing where there is one rank.

    Gradients are the same on all ranks afterwards, bit for bit. A parameter without a gradient counts as zeros where
    another rank has one, and stays without one where none has. With the gradients travels whether a rank was asked to
    stop, so that all stop after the same step.

    Args:
        ranks: that train the model together.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._asked: Tensor | None = None

    @torch.no_grad()
    def align(self, model: nn.Module) -> None:
        """Give all ranks the parameters and buffers of rank 0."""
        if self.ranks.count == 1:
            return
        for value in model.state_dict().values():
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
        dense = [one for one in given if not is_sparse(one)]
        has = [float(one.grad is not None) for one in dense]
        told = torch.tensor([*has, float(asked)], device=given[0].device)
        parts = [told, *(torch.zeros_like(one) if one.grad is None else one.grad for one in dense)]
        of_type: dict[torch.dtype, list[Tensor]] = {}
        for part in parts:
            of_type.setdefault(part.dtype, []).append(part)
        for together in of_type.values():
            flat = torch.cat([part.reshape(-1) for part in together])
            dist.all_reduce(flat)
            for part, summed in zip(together, torch.split(flat, [part.numel() for part in together]), strict=True):
                part.copy_(summed.view_as(part))
        if dense:
            torch._foreach_div_(parts[1:], self.ranks.count)
        self._asked = told[-1]
        # what other ranks have is read, which waits for the device, where this one lacks a gradient alone
        others = has if all(has) else told[:-1].tolist()
        for parameter, gradient, n_ranks in zip(dense, parts[1:], others, strict=True):
            parameter.grad = gradient if n_ranks else None
        for parameter in given:
            if is_sparse(parameter):
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

    def _rows_of_all(self, table: nn.Parameter) -> Tensor:
        """The mean of sparse gradients, which costs the rows that all ranks touch."""
        index, values = torch.zeros(0, dtype=torch.int64, device=table.device), table[:0]
        if table.grad is not None:
            gradient = table.grad.coalesce()
            index, values = gradient.indices()[0], gradient.values()
        sizes = tuple(all_values(len(index)))
        index, values = gathered(index, sizes), gathered(values, sizes) / self.ranks.count
        return torch.sparse_coo_tensor(index[None], values, table.shape, check_invariants=False)
