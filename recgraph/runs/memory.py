"""The predicted peak of a fit, printed before anything is computed, and refused where it is above the limit.

The peak is what the process holds when the data are read (the library and the data, measured), what the model says that
it needs (:meth:`recgraph.models.base.Model.memory_needs`), the state of the training, and the largest of what is there
for a while: a step, a checkpoint, a validation, the fitting itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from recgraph import registry
from recgraph.data.part import Cases, Part
from recgraph.evaluate.ranking import ranking_threads
from recgraph.evaluate.topk import CACHED_ITEMS, CHUNK, TILE_ROWS
from recgraph.memory import (
    FITTING_LIBRARIES,
    Estimate,
    MemoryLimitError,
    Workload,
    bound_of,
    format_size,
    resident,
)
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.ranks import of_all
from recgraph.runs.teacher import teacher_bytes
from recgraph.train.config import TrainConfig

__all__ = ["Fit", "check_fit"]

_log = logging.getLogger(__name__)
# the heap that a training keeps has gaps between the arrays of its steps (recgraph.train.host_memory)
_GAPS = 17 / 16
#: bytes of what a validation keeps of each user
_OF_USER = 800
#: settings of which a smaller value takes less, in the order in which they are tried
_KNOBS = ("batch_size", "hidden_dim", "n_layers", "max_len", "k", "max_users", "candidates")


@dataclass(frozen=True)
class Fit:
    """A fit that is about to begin.

    Attributes:
        model: not built.
        space: that it will be built for; the data are in memory.
        part: that it is fitted to; None where it reads its graph alone.
        config: of the training; of a model in closed form it is not read.
        cases: gives those of the validation; None: there is none.
        on_host: whether the model is in the memory of the process. What an accelerator holds is not counted.
        saves: whether checkpoints are written.
        n_ranks: processes that train together; with ``shard_tables`` the peak is that of one which has its rows.
        begins_whole: whether first values are given to the tables of items, which every process then makes whole.
        before: bytes that the process holds now, the data among them.
    """

    model: Model
    space: Space
    part: Part | None
    config: TrainConfig
    cases: Callable[[], Cases] | None = None
    on_host: bool = True
    saves: bool = False
    n_ranks: int = 1
    begins_whole: bool = False
    before: int = field(default_factory=resident)

    def estimate(self) -> Estimate:
        """The predicted peak."""
        model, space = self.model, self.space
        lengths = torch.zeros(0, dtype=torch.int64) if self.part is None else self.part.items.lengths
        work = Workload(space.n_users, space.n_items, lengths, self.config.batch_size, space)
        needs = model.memory_needs(work)
        n_bytes = data_bytes(self.part)
        held = {"library": self.before - n_bytes, "data": n_bytes, "libraries at work": FITTING_LIBRARIES}
        moments: dict[str, int] = {}
        if self.on_host:
            held |= {"parameters": needs.parameters, "buffers": needs.buffers, **needs.held}
            if (taught := teacher_bytes(model)) > 0:
                held["teacher"] = taught
            moments["fitting" if isinstance(model, ClosedFormModel) else "preparing"] = needs.fitting
        if isinstance(model, TrainableModel):
            if self.on_host:
                # Adam's two moments; the best weights so far are kept beside the present ones
                held |= {"optimiser": 2 * needs.parameters, "best weights": needs.parameters + needs.buffers}
                of_rows = needs.row_tables if self.config.sparse_tables else 0
                moments["a step"] = int(_GAPS * (needs.parameters - of_rows + needs.step))
            if self.saves:
                # the writer makes the bytes of a file before it writes them
                moments["a checkpoint"] = 2 * needs.parameters + needs.buffers
        if self.cases is not None:
            width = getattr(model.config, "hidden_dim", 256)
            threads = ranking_threads(model, torch.device("cpu")) if self.on_host else 1
            own = (needs.ranking + threads * needs.scoring) * self.on_host
            moments["a validation"] = _validation(self.cases(), space.n_items, width, threads) + own
        return Estimate(held, moments)

    def fits(self, most: int, n_items: int | None = None, batch_size: int | None = None, **settings: Any) -> bool:
        """Whether it would stay below a limit with other settings, or for another number of items."""
        try:
            model = type(self.model)(**{**self.model.config.model_dump(), **settings}) if settings else self.model
            space = self.space if n_items is None else self.space.model_copy(update={"n_items": n_items})
            given = {} if batch_size is None else {"batch_size": batch_size}
            other = replace(self, model=model, space=space, config=self.config.model_copy(update=given))
            return other.estimate().peak <= most
        except ValueError:  # settings that do not go together
            return False

    def what_fits(self, most: int) -> str:
        """What a user can change so that it stays below a limit."""
        found = []
        for name in _KNOBS:
            of = self.config if name == "batch_size" else self.model.config
            value = getattr(of, name, None)
            if isinstance(value, int) and (name != "batch_size" or isinstance(self.model, TrainableModel)):
                at = _largest_below(value, partial(self._fits_with, most, name))
                # a model that is cut to less than that is another model
                found += [f"{name} = {at}"] if at and (name == "batch_size" or 16 * at >= value) else []
        loss = registry.key(getattr(self.model.config, "loss", ""))
        if loss == registry.key("full_softmax") and self.fits(most, loss="sampled_softmax"):
            found.append("loss = 'sampled_softmax'")
        if found:
            return f"what fits: {', or '.join(found)}"
        if isinstance(self.model, ClosedFormModel):
            at = _largest_below(self.space.n_items, partial(self._fits_with, most, "n_items"))
            if at:
                return f"it fits at most {at:,} items: leave out rare ones, or take a model that is trained"
        peak = format_size(self.estimate().peak)
        return f"no smaller setting alone makes it fit: allow {peak}, or take less data"

    def _fits_with(self, most: int, name: str, value: int) -> bool:
        return self.fits(most, **{name: value})


def check_fit(fit: Fit, limit: str | int | None = None) -> None:
    """Refuse a fit that does not fit; with a limit its predicted peak is logged as a table before.

    Of several ranks all call it: what does not fit on one, all refuse.

    Args:
        limit: e.g. ``"8GiB"``; None: that of the process, or what the machine has (:func:`recgraph.memory.bound_of`).

    Raises:
        MemoryLimitError: the peak is above it; says what would fit.
        ValueError: the limit is no size.
    """
    of_all(lambda: _check_here(fit, limit))


def _check_here(fit: Fit, limit: str | int | None) -> None:
    """The same, in this process."""
    bound = bound_of(limit)
    if bound is None:
        return
    try:
        estimate = fit.estimate()
    except Exception as error:
        if bound.is_given:
            raise
        # a model of a user's own that cannot be predicted is refused where that was asked for alone
        _log.debug("no prediction of %s: %s", fit.model.key(), error)
        return
    most = bound.n_bytes
    if bound.is_given:
        _log.info("predicted memory of %s:\n%s", fit.model.key(), estimate.table(most))
    else:
        _log.debug("predicted memory of %s: %s", fit.model.key(), format_size(estimate.peak))
    if estimate.peak > most:
        way_out = "" if bound.is_given else f"; or memory_limit={format_size(estimate.peak)!r} goes on as if it fitted"
        raise MemoryLimitError(
            f"{bound}: {type(fit.model).__name__} would take {format_size(estimate.peak)}: "
            f"the library and the data {format_size(fit.before)}, and most of the rest for {_largest(estimate)}; "
            f"{fit.what_fits(most)}{way_out}"
        )


def data_bytes(part: Part | None) -> int:
    """Of a part's tensors."""
    if part is None:
        return 0
    tensors = (part.items.values, part.items.offsets, part.weights, part.times)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _validation(cases: Cases, n_items: int, width: int, threads: int) -> int:
    """Histories and truth, the catalogue, a tile of scores of each thread, the lists and metrics of all users."""
    data = 3 * (cases.history.values.nbytes + cases.truth.values.nbytes) + 64 * cases.truth.values.numel()
    catalogue = 24 * n_items + 4 * (n_items + CHUNK) * width
    scores = threads * 5 * 4 * TILE_ROWS["cpu"] * min(CACHED_ITEMS, n_items + CHUNK)
    return data + catalogue + scores + len(cases) * _OF_USER


def _largest(estimate: Estimate) -> str:
    parts = {**estimate.held, **estimate.moments}
    parts = {name: size for name, size in parts.items() if name not in ("library", "data", "libraries at work")}
    name = max(parts, key=lambda one: parts[one])
    return f"{name} {format_size(parts[name])}"


def _largest_below(value: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number below ``value`` that fits, to a sixteenth; None: not even 1."""
    low, high = value, value
    while low > 1:
        low, high = low // 2, low
        if fits(low):
            break
    else:
        return None
    step = low
    while (step := step // 2) >= max(low // 16, 1):
        if low + step < high and fits(low + step):
            low += step
    return low
