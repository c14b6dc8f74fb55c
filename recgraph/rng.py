"""Randomness: named generators derived from one recorded seed, and the one dropout of the library.

Nothing in the library draws from torch's global generator, except torch's own default initialisation of layers,
which :func:`seeded_init` seeds and restores.
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

#: suffix, in a state, of the names of streams that draw on the host; prefix of those that one rank has to itself
_HOST, _RANK = "@host", "rank "


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for a purpose: the same for the same seed and names, on every machine."""
    text = "\x1f".join(map(str, (int(seed), *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for a purpose (splits, negative samples on the host)."""
    return np.random.default_rng(derive(seed, *names))


class Generators:
    """Torch generators by name, all derived from the recorded seed of a run; created at the first access.

    Processes that train together (:mod:`recgraph.ranks`) all draw the same from a stream, so that what they draw for a
    whole batch is what one process would draw; :meth:`of_rank` gives streams that differ by rank. ``ranks`` says which
    of the processes this one is; None: as it is connected. A stream's position is part of the training state, so that
    a resumed run draws what an uninterrupted one would have drawn.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", ranks: Ranks | None = None) -> None:
        self.seed, self.device = int(seed), torch.device(device)
        self.ranks = Ranks.here() if ranks is None else ranks
        self._streams: dict[str, torch.Generator] = {}
        self._of_rank: dict[str, torch.Generator] = {}
        self._on_host: dict[str, torch.Generator] = {}
        self._held: dict[str, Tensor] | None = None
        #: what tells this rank's own streams from those of others, and from those before it went on without their state
        self._own: tuple[str | int, ...] = (self.ranks.index,)

    def __getitem__(self, name: str) -> torch.Generator:
        """The stream of that name, e.g. ``"views"``, ``"negatives"``; the same on all ranks."""
        if name not in self._streams:
            self._streams[name] = torch.Generator(device=self.device).manual_seed(derive(self.seed, name))
        return self._streams[name]

    def of_rank(self, name: str) -> torch.Generator:
        """The stream that this rank has to itself, for its own rows (dropout); a process alone has the one stream."""
        if self.ranks.count == 1:
            return self[name]
        if name not in self._of_rank:
            seed = derive(self.seed, name, *self._own)
            self._of_rank[name] = torch.Generator(device=self.device).manual_seed(seed)
        return self._of_rank[name]

    def on_host(self, name: str) -> torch.Generator:
        """A stream that draws on the host whatever the device, the same on all ranks, for batches prepared ahead."""
        if name not in self._on_host:
            self._on_host[name] = self.fresh(name)
        return self._on_host[name]

    def fresh(self, *names: str | int) -> torch.Generator:
        """A new generator on the host that depends on the seed and the names alone (e.g. the order of an epoch)."""
        return torch.Generator().manual_seed(derive(self.seed, *names))

    def host_state(self) -> dict[str, Tensor]:
        """The state of the streams of :meth:`on_host`, which a thread may draw from ahead of the step."""
        return {name: stream.get_state() for name, stream in [*self._on_host.items()]}

    def hold(self, state: dict[str, Tensor]) -> None:
        """Until :meth:`release`, let :meth:`state_dict` give this state of the streams of :meth:`on_host`."""
        self._held = state

    def release(self) -> None:
        """Put the streams of :meth:`on_host` back to the state that is held; those made later are made again."""
        held, self._held = self._held or {}, None
        self._on_host = {name: self._on_host[name] for name in held}
        for name, state in held.items():
            self._on_host[name].set_state(state)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of all streams, those of this rank alone by names of their own."""
        hosts = self.host_state() if self._held is None else self._held
        own = {f"{_RANK}{self.ranks.index}/{name}": stream for name, stream in self._of_rank.items()}
        state = {name: stream.get_state() for name, stream in {**self._streams, **own}.items()}
        return state | {f"{name}{_HOST}": value for name, value in hosts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], step: int = 0, n_ranks: int = 1) -> list[str]:
        """Go on with what ``n_ranks`` processes had at a step -> the names of streams that begin anew, from the step,
        as their state is of another kind of device. On another number of ranks each one's own streams begin anew."""
        if n_ranks != self.ranks.count:
            self._own = (self.ranks.index, "resumed", step)
            for name, stream in self._of_rank.items():
                stream.manual_seed(derive(self.seed, name, *self._own))
        anew = []
        for name, value in state.items():
            owner, _, own = name.rpartition("/")
            if owner and (n_ranks != self.ranks.count or owner != f"{_RANK}{self.ranks.index}"):
                continue
            on_host = name.endswith(_HOST)
            stream = self.of_rank(own) if owner else self.on_host(name.removesuffix(_HOST)) if on_host else self[name]
            if stream.get_state().numel() == value.numel():
                # generator states live on the host whatever device they draw on
                stream.set_state(value.to(device="cpu", dtype=torch.uint8))
            else:
                stream.manual_seed(derive(self.seed, name, "resumed", step))
                anew.append(name)
        return anew


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

    The probability of a zero, ``p``, is rounded to a multiple of 1/256, and so is the scale: the expectation is exact.
    Without a generator, or with ``p == 0``, it is ``x`` itself.
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
    held on the host, so that nothing waits. Whoever calls what is compiled lends the stream to all of it.
    """
    if generator is None or torch.compiler.is_compiling() or device.type == "meta":
        yield generator is not None
        return
    if device.type == "cpu":
        common = torch.default_generator
    elif device.type == "mps":
        common = torch.mps._get_default_mps_generator()
    else:
        module = torch.get_device_module(device)
        common = module.default_generators[module.current_device() if device.index is None else device.index]
    before = common.get_state()
    common.set_state(generator.get_state())
    try:
        yield True
    finally:
        generator.set_state(common.get_state())
        common.set_state(before)
