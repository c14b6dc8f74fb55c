"""What a phase's step consists of: parameter groups and their optimisers, the loss, the gradient of
all ranks, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

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
    grouped = [*map(id, chain.from_iterable(groups.values()))]
    if sorted(grouped) != sorted(map(id, model.parameters())):
        wrong = [
            name
            for name, parameter in model.named_parameters()
            if grouped.count(id(parameter)) != 1
        ]
        raise ValueError(
            f"parameter_groups: each parameter must be in one group, and {', '.join(wrong)} are not"
        )
    if config.accumulate > 1:
        stepped = [name for phase in model.phases for name in phase.groups]
        if len({*stepped}) < len(stepped):
            raise ConfigError(
                f"accumulate = {config.accumulate}: several phases train one group; use accumulate = 1"
            )
    tables = (
        [*map(id, map(model.get_parameter, model.row_sparse_tables))]
        if config.sparse_tables
        else []
    )
    rate, betas = config.learning_rate, (0.9, config.adam_beta2)
    optimisers: dict[str, torch.optim.Optimizer] = {}
    for name, parameters in groups.items():
        dense: list[nn.Parameter] = []
        sparse: list[nn.Parameter] = []
        for parameter in parameters:
            setattr(parameter, SPARSE_GRADIENTS, id(parameter) in tables)
            (sparse if is_sparse(parameter) else dense).append(parameter)
        if dense:
            make = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
            optimisers[name] = make(
                dense, lr=rate, betas=betas, weight_decay=config.weight_decay, fused=True
            )
        if sparse:
            optimisers[f"{name}{TABLES}"] = torch.optim.SparseAdam(sparse, lr=rate, betas=betas)
    return optimisers


@contextmanager
def freeze_all_but(
    groups: Mapping[str, list[nn.Parameter]], trainable: Sequence[str]
) -> Iterator[list[nn.Parameter]]:
    """Freeze all other groups within the block; yields the parameters of the named ones that the
    user did not freeze.

    Afterwards, also after an exception, every ``requires_grad`` is as it was: what the user froze
    stays frozen.
    """
    trained: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name in (*trainable, *groups.keys() - {*trainable}):
        for parameter in groups[name]:
            if parameter.requires_grad:
                (trained if name in trainable else others).append(parameter)
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield trained
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


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
    _stops: Tensor | None = None

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
        given = list(parameters)
        dense = [one for one in given if not is_sparse(one)]
        has = [float(one.grad is not None) for one in dense]
        flags = torch.tensor([*has, float(stops)], device=given[0].device)
        parts = [flags, *(torch.zeros_like(one) if one.grad is None else one.grad for one in dense)]
        of_type: dict[torch.dtype, list[Tensor]] = {}
        for part in parts:
            of_type.setdefault(part.dtype, []).append(part)
        for together in of_type.values():
            flat = torch.cat([part.reshape(-1) for part in together])
            dist.all_reduce(flat)
            for part, summed in zip(
                together, torch.split(flat, [part.numel() for part in together]), strict=True
            ):
                part.copy_(summed.view_as(part))
        if dense:
            torch._foreach_div_(parts[1:], self.ranks.count)
        self._stops = flags[-1]
        # what other ranks have is read, which waits for the device, only where this one lacks a
        # gradient
        others = has if all(has) else flags[:-1].tolist()
        for parameter, gradient, n_ranks in zip(dense, parts[1:], others, strict=True):
            parameter.grad = gradient if n_ranks else None
        for parameter in given:
            if is_sparse(parameter):
                parameter.grad = self._mean_rows(parameter)

    def stops(self, may_wait: bool) -> bool:
        """Whether any rank was to stop at the last step; on an accelerator False unless it
        ``may_wait`` for it.
        """
        return (
            self._stops is not None and (may_wait or self._stops.is_cpu) and bool(self._stops > 0)
        )

    def _mean_rows(self, table: nn.Parameter) -> Tensor:
        """The mean of sparse gradients, which costs the rows that all ranks touch."""
        index, values = torch.zeros(0, dtype=torch.int64, device=table.device), table[:0]
        if table.grad is not None:
            gradient = table.grad.coalesce()
            index, values = gradient.indices()[0], gradient.values()
        sizes = tuple(all_values(len(index)))
        index, values = gathered(index, sizes), gathered(values, sizes) / self.ranks.count
        return torch.sparse_coo_tensor(index[None], values, table.shape, check_invariants=False)
