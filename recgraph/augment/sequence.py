"""Augmentations of sequences: crop, mask, reorder, and two views of each sequence by two of them.

All work on packed rows of tokens at once, without a loop over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph import registry
from recgraph.config import Config, ConfigError, Search, configure
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged


class AugmentationConfig(Config):
    """Settings of an augmentation."""


class SequenceAugmentation:
    """Base of the augmentations of sequences: ``Crop(ratio=0.5)(sequences, generator)`` changes
    every row at random.

    Rows of fewer than two tokens stay as they are. A subclass sets ``Config`` and defines
    :meth:`augment`.

    Args:
        config: the settings as a value, or
        settings: the settings by name.
    """

    Config: ClassVar[type[AugmentationConfig]] = AugmentationConfig
    #: whether it reads no token, but moves, leaves out or masks places whatever they hold: then the
    #: time gap of a place goes where the token goes
    by_place: ClassVar[bool] = False

    def __init__(self, config: AugmentationConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    def setup(self, train: Part) -> None:
        """Learn what the augmentation needs from the training part; most need nothing."""

    def __call__(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        """The augmented rows.

        Args:
            sequences: B rows of tokens (``item_idx + 1``; 0 is a masked item); not changed. Or
                those of :func:`recgraph.data.batches.with_gaps`: what is known of its time goes
                with the token where ``by_place`` is set. Else it stays at its place where all rows
                keep their lengths, and is unknown (0) where they do not. That of a masked token is
                unknown.
            generator: the stream to draw from, on the device of ``sequences``.

        Returns:
            B rows like them on the same device; a row may be shorter or longer than it was, and is
            empty only where it was.
        """
        if sequences.values.ndim > 1:
            return self._with_gaps(sequences, generator)
        long_mask = sequences.lengths > 1
        if bool(long_mask.all()):
            return self.augment(sequences, generator)
        return assign(sequences, long_mask.to(torch.int64) - 1, [self.augment], generator)

    def _with_gaps(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        if self.by_place:
            places = torch.arange(1, len(sequences.values) + 1, device=sequences.device)
            moved = self(sequences.with_values(places), generator)
            masked = sequences.values.new_zeros(1, sequences.values.shape[1])
            return moved.with_values(torch.cat([masked, sequences.values])[moved.values])
        tokens, *of_time = sequences.values.unbind(1)
        view = self(sequences.with_values(tokens), generator)
        if not torch.equal(view.offsets, sequences.offsets):
            of_time = [torch.zeros_like(view.values)] * len(of_time)
        known = [column.masked_fill(view.values == 0, 0) for column in of_time]
        return view.with_values(torch.stack([view.values, *known], 1))

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        """The augmented rows, of rows that all hold at least two tokens."""
        raise NotImplementedError


class CropConfig(AugmentationConfig):
    ratio: Annotated[
        float,
        Field(gt=0, le=1, description="the share of the sequence that is kept"),
        Search(low=0.1, high=0.9),
    ] = 0.5


class Crop(SequenceAugmentation):
    """Keep ``floor(ratio * length)`` consecutive tokens, at least one, at a uniform place.

    Source: CL4SRec (Xie et al., ICDE 2022), section 4.2.1; ratio .5 as in MCLRec (SIGIR 2023).
    Departure: at least one token is kept (with a small ratio the published code would leave none).
    """

    Config = CropConfig
    by_place = True

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        kept = share(sequences.lengths, self.config.ratio, at_least=1)
        starts = uniform_up_to(sequences.lengths - kept, generator)
        return sequences.take(slice(None), starts, kept)


class MaskConfig(AugmentationConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence that is masked"),
        Search(low=0.1, high=0.9),
    ] = 0.5


class Mask(SequenceAugmentation):
    """Write token 0 to ``floor(ratio * length)`` places, without replacement; the last place can be
    hit.

    Source: CL4SRec (Xie et al., ICDE 2022), section 4.2.1, which has a mask token of its own. As in
    the published code of MCLRec (SIGIR 2023) the token is the padding's, so that encoders also
    leave masked places out of attention.
    """

    Config = MaskConfig
    by_place = True

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        hit_mask = choose_within(sequences, share(sequences.lengths, self.config.ratio), generator)
        return sequences.with_values(sequences.values.masked_fill(hit_mask, 0))


class ReorderConfig(AugmentationConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence that is shuffled"),
        Search(low=0.1, high=0.9),
    ] = 0.8


class Reorder(SequenceAugmentation):
    """Shuffle a window of ``floor(ratio * length)`` consecutive tokens at a uniform place.

    Source: CL4SRec (Xie et al., ICDE 2022), section 4.2.1; ratio .8 as in MCLRec (SIGIR 2023).
    """

    Config = ReorderConfig
    by_place = True

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        width = share(sequences.lengths, self.config.ratio)
        starts = uniform_up_to(sequences.lengths - width, generator)
        from_start = sequences.positions - starts[sequences.rows]
        inside = torch.nonzero((from_start >= 0) & (from_start < width[sequences.rows])).squeeze(1)
        order = shuffle_within(sequences.rows[inside], generator)
        values = sequences.values.clone()
        values[inside] = sequences.values[inside[order]]
        return sequences.with_values(values)


class TwoViews:
    """Two views of each sequence: a pair of augmentations is drawn, one makes the first view, one
    the second.

    ``TwoViews(["crop", "mask", "reorder"], per="row")`` is what the published code of MCLRec does:
    two different augmentations for each sample, all ordered pairs equally likely, and none where
    the length is 1.

    Args:
        augmentations: to draw from: registered names, specifications (``{"name": "crop", "ratio":
            0.3}``) or instances.
        per: ``"row"`` draws a pair for each row, ``"batch"`` one for all rows of a call.
        distinct: the two augmentations of a pair differ; False draws them independently.
        max_len: of a view that has grown longer, the last ``max_len`` tokens are kept; None keeps
            all.
    """

    def __init__(
        self,
        augmentations: Sequence[str | Mapping[str, Any] | SequenceAugmentation],
        per: Literal["row", "batch"] = "row",
        distinct: bool = True,
        max_len: int | None = None,
    ) -> None:
        if len(augmentations) < 1 + distinct:
            raise ValueError(
                f"augmentations = {list(augmentations)!r}: give at least {1 + distinct}"
            )
        self.augmentations: list[SequenceAugmentation] = []
        for specification in augmentations:
            augmentation: object = specification
            if not isinstance(specification, SequenceAugmentation):
                augmentation = registry.make("augmentation", specification)
            if not isinstance(augmentation, SequenceAugmentation):
                raise ConfigError(
                    f"augmentations: {specification!r} is not an augmentation of sequences"
                )
            self.augmentations.append(augmentation)
        self.per, self.distinct, self.max_len = per, distinct, max_len

    def setup(self, train: Part) -> None:
        """Show the training part to every augmentation."""
        for augmentation in self.augmentations:
            augmentation.setup(train)

    def __call__(self, sequences: Ragged, generator: torch.Generator) -> tuple[Ragged, Ragged]:
        """Two views of every row (see :meth:`SequenceAugmentation.__call__`)."""
        n, where = len(self.augmentations), generator.device
        count = sequences.n_rows if self.per == "row" else 1
        first = torch.randint(n, (count,), generator=generator, device=where)
        step = torch.randint(int(self.distinct), n, (count,), generator=generator, device=where)
        views = []
        for drawn in (first, (first + step) % n):
            if self.per == "batch":
                view = self.augmentations[int(drawn)](sequences, generator)
            else:
                choice = drawn.masked_fill(sequences.lengths < 2, -1)
                view = assign(sequences, choice, self.augmentations, generator)
            if self.max_len is not None:
                view = view.last(self.max_len)
            views.append(view)
        return views[0], views[1]


def share(lengths: Tensor, ratio: float, at_least: int = 0) -> Tensor:
    """``max(floor(ratio * length), at_least)`` for each row, in float64 as Python computes it.

    Args:
        lengths: [B] int64.

    Returns:
        [B] int64.
    """
    return (lengths.to(torch.float64) * ratio).floor().to(torch.int64).clamp(min=at_least)


_KEY_BITS = 31


def uniform_up_to(most: Tensor, generator: torch.Generator) -> Tensor:
    """One integer for each entry, uniform on ``0 ... most[i]``.

    Args:
        most: [B] int64, not negative.

    Returns:
        [B] int64.
    """
    draw = torch.rand(most.shape, generator=generator, device=most.device, dtype=torch.float64)
    return torch.minimum((draw * (most + 1)).to(torch.int64), most)


def shuffle_within(rows: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation of places that is uniform inside each row and keeps the rows apart.

    Args:
        rows: [T] int64, the row of each place, ascending.

    Returns:
        [T] int64: the place that comes to each place. The two are always in one row.
    """
    # integer keys: the row in the high bits, so that no rounding can carry a place into the next
    # row
    keys = torch.randint(1 << _KEY_BITS, rows.shape, generator=generator, device=rows.device)
    return torch.argsort(keys + (rows << _KEY_BITS))


def choose_within(sequences: Ragged, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Choose ``counts[r]`` places of each row, uniformly and without replacement.

    Args:
        counts: [B] int64, at most the rows' lengths.

    Returns:
        [T] bool: True where a place is chosen.
    """
    order = shuffle_within(sequences.rows, generator)
    chosen = torch.zeros_like(order, dtype=torch.bool)
    chosen[order[sequences.positions < counts[sequences.rows]]] = True
    return chosen


def assign(
    sequences: Ragged,
    choice: Tensor,
    operations: Sequence[Callable[[Ragged, torch.Generator], Ragged]],
    generator: torch.Generator,
) -> Ragged:
    """Apply the operation chosen for each row; rows keep their order.

    Args:
        choice: [B] int64, an index into ``operations``, or -1 for a row that stays as it is.
    """
    rows = [torch.nonzero(choice == -1).squeeze(1)]
    parts = [sequences.take(rows[0])]
    for index, operation in enumerate(operations):
        rows.append(torch.nonzero(choice == index).squeeze(1))
        part = sequences.take(rows[-1])
        if part.n_rows:
            part = operation(part, generator)
        parts.append(part)
    return Ragged.cat(parts).take(torch.argsort(torch.cat(rows)))
