"""Adam for tables whose gradients are rows: a step costs what it touches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recgraph.rows import row_gradient, summed_rows
from recgraph.shards import is_sharded, local_rows, own_rows

__all__ = ["RowAdam", "clip_gradients"]

_EPS = 1e-8


class RowAdam(torch.optim.Adam):
    """Fused Adam, and lazy or row-wise Adam of the parameters whose gradient is row-sparse.

    **Lazy**: a step updates the rows that the gradient has, with moments as Adam's; row r at step t::

        m_r = b1 m_r + (1 - b1) g_r;  v_r = b2 v_r + (1 - b2) g_r^2
        w_r -= rate (m_r / (1 - b1^t)) / (sqrt(v_r / (1 - b2^t)) + eps)

    The count t is the table's, not the row's (as in ``torch.optim.SparseAdam``). Departures from Adam, which steps
    every row: a row that is not touched keeps its moments and does not move, where Adam's moments decay and still move
    it; weight decay reaches touched rows alone. A gradient that is dense, or has all rows, makes Adam's step.

    **Row-wise**: the second moment is one number a row, the mean over the row's squares: ``v_r`` is [1], so that the
    state of a table is half as large. Of a sharded table a rank steps its own rows.

    The state has Adam's names and shapes (``exp_avg_sq`` is [N, 1] where it is row-wise): a training may change from
    Adam to lazy Adam and back.

    Args:
        parameters: of one group.
        learning_rate, weight_decay: as of Adam.
        row_wise: the parameters with one second moment a row; others are lazy where their gradient is row-sparse.
        betas: b1 and b2.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
        row_wise: Collection[nn.Parameter] = (),
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(parameters, lr=learning_rate, betas=betas, eps=_EPS, weight_decay=weight_decay, fused=True)
        self._row_wise = {id(parameter) for parameter in row_wise}

    def is_row_wise(self, parameter: Tensor) -> bool:
        """Whether the second moment of a parameter is one number a row."""
        return id(parameter) in self._row_wise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; gradients are left where they are."""
        if closure is not None:
            raise ValueError("closure is not supported; call backward() before step()")
        held: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None and (gradient.is_sparse or id(parameter) in self._row_wise):
                    self._step_rows(parameter, gradient, group["lr"], group["weight_decay"])
                    held.append((parameter, gradient))
                    parameter.grad = None
        super().step()
        for parameter, gradient in held:
            parameter.grad = gradient

    def _step_rows(self, parameter: nn.Parameter, gradient: Tensor, rate: float, weight_decay: float) -> None:
        rows, values = (None, gradient) if not gradient.is_sparse else summed_rows(gradient)
        own = own_rows(parameter)
        if own is not None and rows is not None:  # all that reaches this rank is of its rows
            rows = rows - own.first
        weight_rows = local_rows(parameter)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(weight_rows)
            width = 1 if id(parameter) in self._row_wise else parameter.shape[1]
            state["exp_avg_sq"] = weight_rows.new_zeros(len(weight_rows), width)
        state["step"] += 1
        tensors = [weight_rows, state["exp_avg"], state["exp_avg_sq"]]
        weight, first, second = tensors if rows is None else [tensor.index_select(0, rows) for tensor in tensors]
        if weight_decay:
            values = values.add(weight, alpha=weight_decay)
        squares = values * values if second.shape[1] == values.shape[1] else (values * values).mean(1, keepdim=True)
        betas = self.defaults["betas"]
        first.lerp_(values, 1 - betas[0])
        second.lerp_(squares, 1 - betas[1])
        # the count stays on its device; float32 would round 1 - b2 ** t to four digits at first
        by_first, by_second = (1 - beta ** state["step"].double() for beta in betas)
        weight.sub_((first / by_first).div_((second / by_second).sqrt_().add_(_EPS)).mul_(rate))
        if rows is not None:
            for tensor, changed in zip(tensors, (weight, first, second), strict=True):
                tensor.index_copy_(0, rows, changed)


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Scale the gradients, row-sparse ones among them, so that their norm together is at most ``largest``.

    As ``torch.nn.utils.clip_grad_norm_``, which takes dense gradients alone. The rows of row-sparse gradients are
    summed on the way.
    """
    norms: list[Tensor] = []
    of_shards: list[Tensor] = []
    scaled = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            rows, values = summed_rows(gradient)
            gradient = row_gradient(rows, values, len(parameter), is_summed=True)
            parameter.grad, gradient = gradient, values
        (of_shards if is_sharded(parameter) else norms).append(torch.linalg.vector_norm(gradient))
        scaled.append(gradient)
    if of_shards:  # the rows of other ranks count, too
        together = torch.stack(of_shards).square().sum()
        dist.all_reduce(together)
        norms.append(together.sqrt())
    if norms:
        factor = (largest / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(scaled, factor)
