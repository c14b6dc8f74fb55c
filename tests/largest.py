"""How many values the largest tensor has that a block of code makes: for tests of what must stay small."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Largest"]


class Largest(TorchDispatchMode):
    """Within the block it notes the largest tensor that an operation returns.

    Args:
        without: a tensor that does not count, nor do parts of it.
    """

    def __init__(self, without: Tensor | None = None) -> None:
        super().__init__()
        self._without = None if without is None else without.data_ptr()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and (self._without is None or made.untyped_storage().data_ptr() != self._without):
            self.numel = max(self.numel, made.numel())
        return made
