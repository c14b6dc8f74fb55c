"""A slow copy of a model's parameters: BYOL's target, MoCo's key encoder, and the models that contrast with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import SlowSides
from recgraph.models.base import ModelConfig, TrainableModel
from recgraph.models.contrast import ContrastConfig
from recgraph.rng import Generators

__all__ = ["ContrastiveModel", "SlowCopy"]

T = TypeVar("T")


class SlowCopy(nn.Module):
    """``theta' <- m theta' + (1 - m) theta`` once a step, of the parameters theta of a model; no gradient reaches it.

    It holds buffers alone, ``average.NAME`` for the parameter NAME: checkpoints have it, a resumed training goes on
    with it, and no optimiser does. It begins as the parameters are when a training begins. What a contrast learns by
    itself (predictor, heads, prototypes, weights) has no copy, but for the projector of its objective. Parameters are
    the same on all ranks after a step, and so is the copy.

    Source: He et al., Momentum Contrast (MoCo), CVPR 2020; Grill et al., BYOL, NeurIPS 2020.
    Departure: m is constant, where BYOL has it rise to 1 along a cosine.

    Args:
        model: built.
        momentum: m.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.average = nn.Module()
        for name, parameter in _copied(model):
            *folders, leaf = name.split(".")
            place = self.average
            for folder in folders:
                if folder not in place._modules:
                    place.add_module(folder, nn.Module())
                place = place.get_submodule(folder)
            place.register_buffer(leaf, parameter.detach().clone())

    def _pairs(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """The copies and the parameters, in one order."""
        copies, parameters = dict(self.average.named_buffers()), dict(_copied(model))
        return list(copies.values()), [parameters[name].detach() for name in copies]

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Take the parameters as they are."""
        torch._foreach_copy_(*self._pairs(model))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move by ``1 - m`` towards the parameters, after a step."""
        copies, parameters = self._pairs(model)
        torch._foreach_lerp_(copies, parameters, 1 - self.momentum)

    @torch.no_grad()
    def compute(self, model: nn.Module, function: Callable[[], T]) -> T:
        """What a function gives while the model has the copy's values for parameters, without gradient."""
        values = {f"model.{name}": value for name, value in self.average.named_buffers()}
        found: T = functional_call(_Calling(model), values, (function,))
        return found


class _Calling(nn.Module):
    """Calls a function of a model, for ``functional_call``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], T]) -> T:
        return function()


def _copied(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that have a slow copy."""
    terms = [f"{name}." for name, part in model.named_modules() if isinstance(part, ContrastiveTerm)]
    for name, parameter in model.named_parameters():
        own = next((term for term in terms if name.startswith(term)), None)
        if own is None or name.startswith(f"{own}objective.projector."):
            yield name, parameter


class ContrastiveModel(TrainableModel):
    """What contrastive models of all lines share, mixed in before the base of their line: with ``target_momentum`` the
    candidates of a contrast are encoded by a :class:`SlowCopy`.

    Raises:
        ValueError: ``target_momentum`` with a transform and an objective that reads both sides of the slow copy.
    """

    def __init__(self, config: ModelConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        #: None: both sides are encoded by the model itself
        self.slow: SlowCopy | None = None

    def build(self, space: Any, seed: int = 0) -> Self:
        config: ContrastConfig = self.config
        if config.target_momentum is None:
            return super().build(space, seed)
        if config.transform is not None and registry.load("objective", config.objective).reads_slow:
            raise ConfigError(
                f"target_momentum = {config.target_momentum}: objective = {config.objective!r} compares with sides of "
                f"the slow copy, which transform = {config.transform!r} does not change; use transform = None"
            )
        super().build(space, seed)
        self.slow = SlowCopy(self, config.target_momentum)
        return self

    @property
    def row_sparse_tables(self) -> tuple[str, ...]:
        # the slow copy of a table moves in all rows at every step
        return () if self.slow is not None else super().row_sparse_tables

    def batches(self, train: Any, batch_size: int, generators: Generators) -> Any:
        if self.slow is not None:
            self.slow.restart(self)
        return super().batches(train, batch_size, generators)

    def end_step(self) -> None:
        super().end_step()
        if self.slow is not None:
            self.slow.update(self)

    def slow_sides(
        self, term: ContrastiveTerm, first: Callable[[], Tensor], second: Callable[[], Tensor]
    ) -> SlowSides | None:
        """The sides of a contrast as the slow copy encodes them; None where there is no such copy.

        Args:
            term: the contrast that reads them.
            first, second: encode a side, [N, D] and [M, D], with the parameters that the model has at the call.
        """
        if self.slow is None:
            return None
        return self.slow.compute(self, lambda: term.slow_sides(first, second))
