"""What is made of parameters and read many times: once within a step, and once until they change in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Kept(Generic[T]):
    """The value of a function of tensors, as long as it holds."""

    def __init__(self) -> None:
        self._shared: list[T] | None = None
        self._kept: tuple[Any, T] | None = None

    def get(self, training: bool, state: Callable[[], Sequence[Tensor]], make: Callable[[], T]) -> T:
        """The value: within :meth:`sharing` that of the first call, in evaluation mode without gradients that which was
        made of the same tensors, else a new one.

        Args:
            training: whether its module is in training mode.
            state: the tensors that it is made of.
            make: makes it.
        """
        if training or torch.is_grad_enabled():
            # a step may follow, and fused optimisers do not count it as a change of the parameters
            self._kept = None
        if self._shared is not None:
            if not self._shared:
                self._shared.append(make())
            return self._shared[0]
        if training or torch.is_grad_enabled():
            return make()
        seen = [(tensor, tensor._version, tensor.device, tensor.dtype) for tensor in state()]
        kept = self._kept  # read once: another thread may replace it
        if kept is None or not all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(kept[0], seen, strict=True)):
            kept = self._kept = (seen, make())
        return kept[1]

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """The block in which it is made once: one step on one batch. A block within it makes one of its own."""
        before, self._shared = self._shared, []
        try:
            yield
        finally:
            self._shared = before
