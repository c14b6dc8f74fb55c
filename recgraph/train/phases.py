"""What a phase's step consists of: parameter groups and their optimisers, the loss, the gradient of
all ranks, the learning rate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, filterfalse

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recgraph.config import ConfigError
from recgraph.models.base import Phase, TrainableModel
from recgraph.ranks import Ranks, all_values, gathered
from recgraph.sparse.rows import SPARSE_GRADIENTS, is_sparse
from recgraph.train.config import TrainConfig

#: suffix of the name of an optimiser of a group's tables
TABLES = " tables"


def make_optimisers(model: TrainableModel, config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    """One optimiser a group of parameters, whose state is the group's, whichever phases step it; of
    an empty one none.

    With ``sparse_tables`` the tables of a group ``g`` whose steps touch few rows are in a
    SparseAdam of their own, by the name ``g tables``. Frozen parameters are among them, so that
    they can be thawed in the course of a training.

    Raises:
        ValueError: a parameter is in no group or in two.
        ConfigError: ``accumulate``, and several phases train one group: each would clear what the
            other has summed.
    """
    groups = model.parameter_groups()
    _check_groups(model, groups, config)
    names = model.row_sparse_tables if config.sparse_tables else ()
    tables = set(map(id, map(model.get_parameter, names)))
    for parameter in model.parameters():
        setattr(parameter, SPARSE_GRADIENTS, id(parameter) in tables)
    make = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
    rate, betas = config.learning_rate, (0.9, config.adam_beta2)
    optimisers: dict[str, torch.optim.Optimizer] = {}
    for name, parameters in groups.items():
        dense = list(filterfalse(is_sparse, parameters))
        sparse = list(filter(is_sparse, parameters))
        if dense:
            optimisers[name] = make(
                dense, lr=rate, betas=betas, weight_decay=config.weight_decay, fused=True
            )
        if sparse:
            optimisers[f"{name}{TABLES}"] = torch.optim.SparseAdam(sparse, lr=rate, betas=betas)
    return optimisers


def _check_groups(
    model: TrainableModel, groups: Mapping[str, list[nn.Parameter]], config: TrainConfig
) -> None:
    counts = Counter(map(id, chain.from_iterable(groups.values())))
    wrong = [name for name, parameter in model.named_parameters() if counts[id(parameter)] != 1]
    if wrong:
        raise ValueError(
            f"parameter_groups: each parameter must be in one group, and {', '.join(wrong)} are not"
        )
    stepped = Counter(chain.from_iterable(phase.groups for phase in model.phases))
    if config.accumulate > 1 and stepped.total() > len(stepped):
        raise ConfigError(
            f"accumulate = {config.accumulate}: several phases train one group; use accumulate = 1"
        )


@contextmanager
def freeze_all_but(
    groups: Mapping[str, list[nn.Parameter]], trainable: Sequence[str]
) -> Iterator[list[nn.Parameter]]:
    """Freeze all other groups within the block; yields the parameters of the named ones that the
    user did not freeze.

    Afterwards, also after an exception, every ``requires_grad`` is as it was: what the user froze
    stays frozen.
    """
    others = _not_frozen(groups, groups.keys() - {*trainable})
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield _not_frozen(groups, trainable)
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _not_frozen(
    groups: Mapping[str, list[nn.Parameter]], names: Iterable[str]
) -> list[nn.Parameter]:
    parameters = chain.from_iterable(groups[name] for name in names)
    return [parameter for parameter in parameters if parameter.requires_grad]


def total_loss(terms: Mapping[str, Tensor], phase: Phase) -> Tensor:
    """The weighted sum of a phase's terms."""
    weighted = [
        terms[name] * weight if weight != 1 else terms[name] for name, weight in phase.terms.items()
    ]
    return torch.stack(weighted).sum() if len(weighted) > 1 else weighted[0]


def step_at(rate: float, optimiser: torch.optim.Optimizer) -> None:
    """One optimiser step at a learning rate for all parameters that are not frozen; clears the
    gradients.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
        for parameter in group["params"]:
            if not parameter.requires_grad:  # a gradient from before it was frozen would move it
                parameter.grad = None
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def rate_factor(step: int, n_batches: int, config: TrainConfig) -> float:
    """The factor of ``learning_rate`` at a step, of epochs of ``n_batches`` steps. It depends on
    the step alone, so that there is no state to save."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "step":
        n_drops = sum(step >= epoch * n_batches for epoch in config.drop_after)
        return config.drop_factor**n_drops
    n_steps = (config.schedule_epochs or config.max_epochs) * n_batches
    done = (step - config.warmup_steps) / max(1, n_steps - config.warmup_steps)
    if config.schedule == "linear":
        return max(0.0, 1 - done)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 1.0


@dataclass
class Averaging:
    """The gradient of a step on several ranks: the mean of theirs, in place, between ``backward()``
    and the step.

    Gradients are the same on all ranks afterwards, bit for bit. A parameter without a gradient
    counts as zeros where another rank has one, and stays without one where none has. With the
    gradients travels whether a rank is to stop, so that all stop after the same step.
    DistributedDataParallel cannot do it: its hooks want every parameter in every backward, and
    phases step groups in turn.
    """

    ranks: Ranks
    #: positive where a rank is to stop after the last step
    _stops: Tensor = field(default_factory=partial(torch.zeros, 1))

    @torch.no_grad()
    def align(self, model: nn.Module) -> None:
        """Give all ranks the parameters and buffers of rank 0."""
        for value in model.state_dict().values():
            same = value.detach().contiguous()
            dist.broadcast(same, src=0)
            value.copy_(same)

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter], stops: bool = False) -> None:
        """Replace each gradient by the mean over ranks, of the same parameters in the same order on
        all; ``stops``: whether this rank is to stop."""
        parameters = list(parameters)
        dense = list(filterfalse(is_sparse, parameters))
        has_gradient: list[float] = []
        gradients: list[Tensor] = []
        for parameter in dense:
            gradient = parameter.grad
            has_gradient.append(float(gradient is not None))
            gradients.append(torch.zeros_like(parameter) if gradient is None else gradient)
        flags = torch.tensor([*has_gradient, float(stops)], device=parameters[0].device)
        _sum_over_ranks([flags, *gradients])
        if gradients:
            torch._foreach_div_(gradients, self.ranks.count)
        self._stops = flags[-1]
        # what other ranks have is read, which waits for the device, only where this one lacks a
        # gradient
        n_ranks = has_gradient if all(has_gradient) else flags[:-1].tolist()
        for parameter, gradient, n in zip(dense, gradients, n_ranks, strict=True):
            parameter.grad = gradient if n else None
        for table in filter(is_sparse, parameters):
            table.grad = self._mean_rows(table)

    def stops(self, may_wait: bool) -> bool:
        """Whether any rank was to stop at the last step; on an accelerator False unless it
        ``may_wait`` for it.
        """
        return (may_wait or self._stops.is_cpu) and bool(self._stops > 0)

    def _mean_rows(self, table: nn.Parameter) -> Tensor:
        """The mean of sparse gradients, which costs the rows that all ranks touch."""
        index, values = torch.zeros(0, dtype=torch.int64, device=table.device), table[:0]
        if table.grad is not None:
            gradient = table.grad.coalesce()
            index, values = gradient.indices()[0], gradient.values()
        sizes = tuple(all_values(len(index)))
        index, values = gathered(index, sizes), gathered(values, sizes) / self.ranks.count
        return torch.sparse_coo_tensor(index[None], values, table.shape, check_invariants=False)


def _sum_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over ranks, in one exchange for each data type."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    for group in groups.values():
        flat = torch.cat([*map(torch.flatten, group)])
        dist.all_reduce(flat)
        sums = torch.split(flat, [*map(torch.numel, group)])
        for tensor, summed in zip(group, sums, strict=True):
            tensor.copy_(summed.view_as(tensor))
