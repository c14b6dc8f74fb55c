"""What is made of parameters or buffers and read many times: made once within a step, and until they change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

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


class SizedByState(nn.Module):
    """Base of modules with buffers as long as what they were connected or fitted to: a state alone says how long.

    What is made of the buffers (:meth:`once`) is kept until one of them changes. Neither the state of the best epoch,
    which ends a training, nor a move to where the module is already makes a graph anew.
    """

    #: the names of these buffers, which have one dimension
    sized_by_state: ClassVar[tuple[str, ...]] = ()
    _made: dict[Hashable, Any] | None = None

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of the buffers, when it is first asked for."""
        every = self._made  # read once: another thread may replace it
        if every is None:
            every = self._made = {}
        if key not in every:
            # made under inference mode it could not be used in training
            with torch.inference_mode(False):
                every[key] = make()
        made: T = every[key]
        return made

    def changed(self) -> None:
        """Forget what was made of the buffers; to be called where one is set."""
        self._made = None

    def _apply(self, *args: Any, **settings: Any) -> Self:
        before = list(self._buffers.values())
        super()._apply(*args, **settings)  # type: ignore[no-untyped-call]
        if any(one is not other for one, other in zip(before, self._buffers.values(), strict=True)):
            self.changed()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        buffers = self._buffers.items()
        if self._made and not all(_equal(state_dict.get(f"{prefix}{name}"), own) for name, own in buffers):
            self.changed()
        for name in self.sized_by_state:
            saved = state_dict.get(f"{prefix}{name}")
            if saved is not None and saved.dim() == 1:
                setattr(self, name, self.get_buffer(name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _equal(saved: Tensor | None, own: Tensor | None) -> bool:
    return saved is not None and own is not None and torch.equal(saved.to(own.device, own.dtype), own)
