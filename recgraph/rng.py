"""Randomness: named generators derived from one recorded seed, and the one dropout of the library.

Nothing in the library draws from torch's global generator, except torch's own default initialisation of layers,
which :func:`seeded_init` seeds and restores.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.ranks import Ranks
from recgraph.sparse.device import is_accelerated


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for a purpose: the same for the same seed and names, on every machine."""
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for a purpose (splits, negative samples on the host)."""
    return np.random.default_rng(derive(seed, *names))


#: suffix of the names of streams that draw on the host while the run's device is another
_ON_HOST = "@host"


class Generators:
    """Torch generators by name, all derived from the recorded seed of a run; created at the first access.

    Processes that train together (:mod:`recgraph.ranks`) all draw the same from a stream, so that what they draw for a
    whole batch is what one process would draw; :meth:`of_rank` gives streams that differ by rank. ``ranks`` says which
    of the processes this one is; None: as it is connected.

    A stream's position is part of the training state (:meth:`state_dict`), so that a resumed run draws what an
    uninterrupted one would have drawn.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", ranks: Ranks | None = None) -> None:
        self.seed = int(seed)
        self.device = torch.device(device)
        self.ranks = Ranks.here() if ranks is None else ranks
        self._streams: dict[str, torch.Generator] = {}
        self._of_rank: dict[str, torch.Generator] = {}
        #: what tells this rank's own streams from those of others, and from those before it went on without their state
        self._own: tuple[str | int, ...] = (self.ranks.index,)
        self._on_host: set[str] = set()
        self._held: dict[str, Tensor] | None = None

    def __getitem__(self, name: str) -> torch.Generator:
        """The stream of that name, e.g. ``"views"``, ``"negatives"``; the same on all ranks."""
        if name not in self._streams:
            self._streams[name] = self._stream(name)
        return self._streams[name]

    def of_rank(self, name: str) -> torch.Generator:
        """The stream that this rank has to itself, for its own rows (dropout); a process alone has the one stream."""
        if self.ranks.count == 1:
            return self[name]
        if name not in self._of_rank:
            self._of_rank[name] = self._stream(name, *self._own)
        return self._of_rank[name]

    def on_host(self, name: str) -> torch.Generator:
        """A stream that draws on the host whatever the device, the same on all ranks, for batches prepared ahead."""
        key = name if self.device.type == "cpu" else f"{name}{_ON_HOST}"
        if key not in self._streams:
            self._streams[key] = torch.Generator().manual_seed(derive(self.seed, name))
        self._on_host.add(key)
        return self._streams[key]

    def host_state(self) -> dict[str, Tensor]:
        """The state of the streams of :meth:`on_host`, which a thread may draw from ahead of the step."""
        return {name: self._streams[name].get_state() for name in list(self._on_host)}

    def hold(self, state: dict[str, Tensor]) -> None:
        """Until :meth:`release`, let :meth:`state_dict` give this state of the streams of :meth:`on_host`."""
        self._held = state

    def release(self) -> None:
        """Put the streams of :meth:`on_host` back to the state that is held."""
        for name in self._on_host:
            if self._held is not None and name in self._held:
                self._streams[name].set_state(self._held[name])
            else:  # made after the state was held
                del self._streams[name]
        self._on_host, self._held = set(self._held or ()), None

    def fresh(self, *names: str | int) -> torch.Generator:
        """A new generator on the host that depends on the seed and the names alone (e.g. the order of an epoch)."""
        return torch.Generator().manual_seed(derive(self.seed, *names))

    def _stream(self, *names: str | int) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(derive(self.seed, *names))

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the streams that all ranks share."""
        held = set() if self._held is None else self._on_host
        own = {name: stream.get_state() for name, stream in dict(self._streams).items() if name not in held}
        return own | (self._held or {})

    def load_state_dict(self, state: Mapping[str, Tensor], step: int = 0) -> list[str]:
        """Go on with the streams that all ranks share -> the names of those that are seeded anew, from ``step``, as
        their state was saved on another kind of device."""
        anew = []
        for name, value in state.items():
            on_host = name.endswith(_ON_HOST)
            stream = self.on_host(name.removesuffix(_ON_HOST)) if on_host else self[name]
            if not _set_state(stream, value):
                stream.manual_seed(derive(self.seed, name, "resumed", step))
                anew.append(name)
        return anew

    def rank_state(self) -> dict[str, Tensor]:
        """The state of the streams that are this rank's alone."""
        return {name: stream.get_state() for name, stream in self._of_rank.items()}

    def load_rank_state(self, state: Mapping[str, Tensor] | None, step: int) -> None:
        """Go on with this rank's own streams; None begins new ones for the steps from ``step`` on."""
        self._own = (self.ranks.index, *(("resumed", step) if state is None else ()))
        for name, stream in self._of_rank.items():
            stream.manual_seed(derive(self.seed, name, *self._own))
        for name, value in (state or {}).items():
            if not _set_state(self.of_rank(name), value):
                self.of_rank(name).manual_seed(derive(self.seed, name, self.ranks.index, "resumed", step))


def _set_state(stream: torch.Generator, state: Tensor) -> bool:
    """Set the state of a stream; False where the state is of another kind of device."""
    if stream.get_state().numel() != state.numel():
        return False
    # generator states live on the host whatever device they draw on
    stream.set_state(state.to(device=torch.device("cpu"), dtype=torch.uint8))
    return True


@contextlib.contextmanager
def seeded_init(seed: int, *names: str | int) -> Iterator[None]:
    """Within the block torch's global generator is seeded (default initialisation of layers); after it, restored."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init", *names))
        yield


def dropout_scale(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor | None:
    """The factors of inverted dropout for ``x``: 0 where dropped, else 1 / (1 - p); None where nothing is dropped.

    For functions with a backward of their own; see :func:`dropout`.
    """
    level = min(round(p * 256), 255)
    if generator is None or level == 0:
        return None
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
    # random_() without bounds leaves the sign bit out; the full range keeps all eight bytes uniform
    words.random_(-(2**63), None, generator=generator)
    # of x's own type: products with a boolean mask are five times slower on CPU
    keep = (words.view(torch.uint8)[: x.numel()].view(x.shape) >= level).to(x.dtype)
    return keep.mul_(256 / (256 - level))


def dropout(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout from random bytes: about a fifth of the cost of torch's on CPU.

    Args:
        x: any shape.
        p: the probability of a zero, rounded to a multiple of 1/256 (0.5 is exact, 0.2 becomes 51/256 = 0.1992);
            the scale uses the rounded value, so the expectation is exact.
        generator: the stream to draw from; None or ``p == 0`` returns ``x`` itself.
    """
    if is_accelerated(x):
        level = min(round(p * 256), 255)
        with lent(generator, x.device) as draws:
            return torch.native_dropout(x, level / 256, True)[0] if draws and level else x
    keep = dropout_scale(x, p, generator)
    return x if keep is None else x * keep


@contextlib.contextmanager
def lent(generator: torch.Generator | None, device: torch.device) -> Iterator[bool]:
    """Within the block torch's global generator of the device draws what ``generator`` would; yields whether it draws.

    Fused kernels know the global generator alone. Afterwards that is as it was, and the stream has moved on. States are
    held on the host, so that nothing waits.
    """
    if generator is None or torch.compiler.is_compiling():
        # whoever calls what is compiled lends the stream to all of it: states cannot be part of a graph
        yield generator is not None
        return
    common = _global_generator(device)
    if common is None:  # meta
        yield True
        return
    before = common.get_state()
    common.set_state(generator.get_state())
    try:
        yield True
    finally:
        generator.set_state(common.get_state())
        common.set_state(before)


def _global_generator(device: torch.device) -> Any:
    if device.type == "meta":
        return None
    module = torch.get_device_module(device)
    if hasattr(module, "default_generators"):
        index = module.current_device() if device.index is None else device.index
        return module.default_generators[index]
    return torch.default_generator if device.type == "cpu" else module._get_default_mps_generator()
