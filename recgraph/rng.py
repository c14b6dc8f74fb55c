"""Randomness: named generators derived from one recorded seed, and the one dropout of the library.

Nothing in the library draws from the global generator of torch, but its own initialisation of
layers (`seeded_init`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from recgraph.ranks import Ranks
from recgraph.sparse.device import is_accelerated

#: what follows the name of a stream that draws on the host whatever the device; of one that a rank
#: has to itself
_HOST, _RANK = "@host", "@rank "


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for a purpose: the same for the same seed and names, on every machine."""
    text = "\x1f".join(map(str, (int(seed), *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for a purpose (splits, negative samples on the host)."""
    return np.random.default_rng(derive(seed, *names))


class Generators:
    """Torch generators by name, all derived from the recorded seed of a run; created at the first
    access.

    Processes that train together (:mod:`recgraph.ranks`) all draw the same from a stream, so that
    what they draw for a whole batch is what one process would draw; :meth:`of_rank` gives streams
    that differ by rank. A stream's position is part of the training state; ``held`` is that of
    :meth:`on_host` while a thread draws from it ahead.
    """

    def __init__(
        self, seed: int, device: torch.device | str = "cpu", ranks: Ranks | None = None
    ) -> None:
        self.seed, self.device = int(seed), torch.device(device)
        self.ranks = Ranks.here() if ranks is None else ranks
        self.held: dict[str, Tensor] | None = None
        self._streams: dict[str, torch.Generator] = {}
        # of their own, as a thread may add to them
        self._host_streams: dict[str, torch.Generator] = {}

    def __getitem__(self, name: str) -> torch.Generator:
        """The stream of that name, e.g. ``"views"``, ``"negatives"``; the same on all ranks."""
        streams, device = self._streams, self.device
        if name.endswith(_HOST):
            streams, device = self._host_streams, torch.device("cpu")
        if name not in streams:
            # "dropout@rank 1" depends on the names "dropout" and 1, "views@host" on "views"
            purpose, _, place = name.partition("@")
            seed = derive(self.seed, purpose, *place.split()[1:])
            streams[name] = torch.Generator(device).manual_seed(seed)
        return streams[name]

    def of_rank(self, name: str) -> torch.Generator:
        """The stream that this rank has to itself, for its own rows (dropout); a process alone has
        the one stream.
        """
        return self[name] if self.ranks.count == 1 else self[f"{name}{_RANK}{self.ranks.index}"]

    def on_host(self, name: str) -> torch.Generator:
        """A stream that draws on the host whatever the device, the same on all ranks, for batches
        prepared ahead.
        """
        return self[f"{name}{_HOST}"]

    def fresh(self, *names: str | int) -> torch.Generator:
        """A new generator on the host that depends on the seed and the names alone (e.g. the order
        of an epoch).
        """
        return torch.Generator().manual_seed(derive(self.seed, *names))

    def host_state(self) -> dict[str, Tensor]:
        """The state of the streams of :meth:`on_host`."""
        return {name: stream.get_state() for name, stream in self._host_streams.items()}

    def release(self) -> None:
        """Put the streams of :meth:`on_host` back to the state that is held; those made later are
        made again.
        """
        assert self.held is not None
        self._host_streams = {}
        for name, state in self.held.items():
            self[name].set_state(state)
        self.held = None

    def state_dict(self) -> dict[str, Tensor]:
        """The state of all streams by name, those of this rank alone by names of their own."""
        states = {name: stream.get_state() for name, stream in self._streams.items()}
        return states | (self.host_state() if self.held is None else self.held)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> list[str]:
        """Go on with a state -> the names of streams that stay as they are, as their state is of
        another kind of device. This rank's own ones stay, too, where it had none in the state."""
        others = []
        for name, value in state.items():
            rank = name.partition(_RANK)[2]
            if rank not in ("", str(self.ranks.index)):
                continue
            if self[name].get_state().numel() == value.numel():
                # generator states live on the host whatever device they draw on
                self[name].set_state(value.to(device="cpu", dtype=torch.uint8))
            else:
                others.append(name)
        return others


@contextlib.contextmanager
def seeded_init(seed: int, *names: str | int) -> Iterator[None]:
    """Within the block torch's global generator is seeded (default initialisation of layers); after
    it, restored.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init", *names))
        yield


def dropout_scale(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor | None:
    """The factors of inverted dropout for ``x``: 0 where dropped, else 1 / (1 - p); None where
    nothing is dropped.

    For functions with a backward of their own; see :func:`dropout`.
    """
    level = _level(p)
    if generator is None or level == 0:
        return None
    return _dropout_scale(x, level, generator)


def _level(p: float) -> int:
    """``p`` as a multiple of 1/256."""
    return min(round(p * 256), 255)


def _dropout_scale(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
    # random_() without bounds leaves the sign bit out; the full range keeps all eight bytes uniform
    words.random_(-(2**63), None, generator=generator)
    # of x's own type: products with a boolean mask are five times slower on CPU
    keep = (words.view(torch.uint8)[: x.numel()].view(x.shape) >= level).to(x.dtype)
    return keep.mul_(256 / (256 - level))


def dropout(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout from random bytes: about a fifth of the cost of torch's on CPU.

    The probability of a zero, ``p``, is rounded to a multiple of 1/256, and so is the scale: the
    expectation is exact. Without a generator, or with ``p == 0``, it is ``x`` itself.
    """
    level = _level(p)
    if generator is None or level == 0:
        return x
    if is_accelerated(x):
        with lent(generator, x.device):
            return torch.native_dropout(x, level / 256, True)[0]
    return x * _dropout_scale(x, level, generator)


@contextlib.contextmanager
def lent(generator: torch.Generator | None, device: torch.device) -> Iterator[bool]:
    """Within the block torch's global generator of the device draws what ``generator`` would;
    yields whether it draws. The device is a tensor's, which has an index.

    Fused kernels know the global generator alone. Afterwards that is as it was, and the stream has
    moved on. States are held on the host, so that nothing waits. Whoever calls what is compiled
    lends the stream to all of it.
    """
    if generator is None or torch.compiler.is_compiling() or device.type == "meta":
        yield generator is not None
        return
    if device.type == "cpu":
        common = torch.default_generator
    elif device.type == "mps":
        common = torch.mps._get_default_mps_generator()
    else:
        common = torch.get_device_module(device).default_generators[device.index]
    before = common.get_state()
    common.set_state(generator.get_state())
    try:
        yield True
    finally:
        generator.set_state(common.get_state())
        common.set_state(before)
