"""Parameter groups, their optimisers, and the steps that phases make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recgraph.config import ConfigError
from recgraph.models.base import Phase, TrainableModel
from recgraph.sparse.rows import set_sparse
from recgraph.train.config import TrainConfig

#: suffix of the name of an optimiser of a group's tables
TABLES = " tables"


def check_phases(model: TrainableModel, accumulate: int = 1) -> None:
    """Refuse phases that name unknown groups, that cannot accumulate, or that have nothing to train."""
    groups = model.parameter_groups()
    names = [name for phase in model.phases for name in phase.groups]
    if unknown := sorted({*names} - {*groups}):
        raise ValueError(f"phases of {type(model).__name__} train groups {unknown}; the model has {sorted(groups)}")
    if not any(parameter.requires_grad for name in names for parameter in groups[name]):
        raise ValueError(f"nothing to train: every parameter of {type(model).__name__}'s phases is frozen")
    shared = sorted({name for name in names if names.count(name) > 1})
    if accumulate > 1 and shared:  # one phase's step would take, and clear, what the other has summed
        raise ConfigError(f"accumulate = {accumulate}: several phases train {', '.join(shared)}; use accumulate = 1")


def make_optimisers(model: TrainableModel, config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    """One Adam a parameter group: its state belongs to the group, whichever phases step it. An empty group has none.

    With ``sparse_tables`` the tables of a group ``g`` whose steps touch few rows are in a SparseAdam of their own, by
    the name ``g tables``. Frozen parameters are among them, so that they can be thawed in the course of a training.

    Raises:
        ValueError: a parameter is in no group or in two, or the model has no table for ``sparse_tables``.
    """
    groups = model.parameter_groups()
    grouped = [id(parameter) for parameters in groups.values() for parameter in parameters]
    wrong = [name for name, parameter in model.named_parameters() if grouped.count(id(parameter)) != 1]
    if wrong:
        raise ValueError(f"parameter_groups: each parameter must be in one group, and {', '.join(wrong)} are not")
    tables = _sparse_tables(model, config)
    rate, betas = config.learning_rate, (0.9, config.adam_beta2)
    optimisers: dict[str, torch.optim.Optimizer] = {}
    for name, parameters in groups.items():
        dense = [parameter for parameter in parameters if id(parameter) not in tables]
        of_tables = [parameter for parameter in parameters if id(parameter) in tables]
        if dense:
            decay = config.weight_decay
            optimisers[name] = torch.optim.Adam(dense, lr=rate, betas=betas, weight_decay=decay, fused=True)
        if of_tables:
            optimisers[f"{name}{TABLES}"] = torch.optim.SparseAdam(of_tables, lr=rate, betas=betas)
    return optimisers


def _sparse_tables(model: TrainableModel, config: TrainConfig) -> set[int]:
    """The ids of the tables that have sparse gradients; they and no others are marked."""
    named = dict(model.named_parameters())
    tables = [named[name] for name in model.row_sparse_tables]
    if config.sparse_tables and not tables:
        raise ConfigError(
            f"sparse_tables = True: every step of this {type(model).__name__} reads all rows of its tables; leave it "
            "out, or use a loss that draws negatives"
        )
    for table in tables:
        set_sparse(table, config.sparse_tables)
    return {id(table) for table in tables} if config.sparse_tables else set()


@contextmanager
def freeze_all_but(groups: dict[str, list[nn.Parameter]], trainable: Sequence[str]) -> Iterator[list[nn.Parameter]]:
    """Freeze all other groups within the block; yields the parameters of the named ones that the user did not freeze.

    Afterwards, also after an exception, every ``requires_grad`` is as it was: what the user froze stays frozen.
    """
    others = [
        parameter
        for name, parameters in groups.items()
        if name not in trainable
        for parameter in parameters
        if parameter.requires_grad
    ]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield [parameter for name in trainable for parameter in groups[name] if parameter.requires_grad]
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def step_at(rate: float, optimiser: torch.optim.Optimizer) -> None:
    """One optimiser step at a learning rate for all parameters that are not frozen; clears the gradients."""
    for group in optimiser.param_groups:
        group["lr"] = rate
        for parameter in group["params"]:
            if not parameter.requires_grad:  # a gradient from before it was frozen would move it
                parameter.grad = None
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def total_loss(terms: dict[str, Tensor], phase: Phase) -> Tensor:
    """The weighted sum of a phase's terms."""
    weighted = [terms[name] * weight if weight != 1 else terms[name] for name, weight in phase.terms.items()]
    return torch.stack(weighted).sum() if len(weighted) > 1 else weighted[0]


def rate_factor(step: int, n_batches: int, config: TrainConfig) -> float:
    """The factor of ``learning_rate`` at a step, of epochs of ``n_batches`` steps. It depends on the step alone, so
    that there is no state to save."""
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
