"""Parts that are given: train, valid and test are read as one log, whose rows know the part that they came in."""

from __future__ import annotations

import json
import logging
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recgraph.data.labels import Label, Strategy, occur, random_ranks, share_of
from recgraph.data.log import PART, InteractionLog
from recgraph.data.part import order
from recgraph.data.targets import without_unknown

__all__ = ["Given"]

#: of train, where no validation part is given and no share is asked for
_DRAWN = 0.1
_log = logging.getLogger(__name__)


class Given(Strategy):
    """The parts as they are given, in files or frames of their own.

    Every interaction of the test part whose item occurs in neither of the other two, and of the validation part whose
    item does not occur in train, is of an item that no model of interactions can find; so is left out of the truth
    (``unknown_items="drop"``) and counted. It stays in the catalogue, and what valid holds of it is history in test.

    Args:
        valid: where no validation part is given, the share of each user's train interactions that becomes one, drawn as
            by :class:`~recgraph.data.strategies.Ratio`; None: a tenth; 0: none is drawn.
        order: of that draw: ``"random"`` (seeded), or ``"time"``: each user's latest.
        unknown_items: ``"keep"`` leaves items that training does not know in the truth, where each is a miss.
        found: filled in: the interactions of each part, those of valid and test whose pair of user and item an earlier
            part has, too, and whose user or item no earlier part has.
    """

    valid: Annotated[float | None, Field(ge=0, lt=1)] = None
    order: Literal["random", "time"] = "random"
    unknown_items: Literal["drop", "keep"] = "drop"
    found: dict[str, int] = Field(default_factory=dict)

    @property
    def draws(self) -> bool:
        return bool(self.valid) and self.order == "random"

    @property
    def facts(self) -> str:
        drawn = {} if self.valid is None else {"valid_from_train": self.valid, "order": self.order}
        return json.dumps({**drawn, "unknown_items": self.unknown_items, **self.found}, sort_keys=True)

    def applied(self, interactions: InteractionLog, seed: int) -> tuple[Self, Tensor]:
        if not interactions.has_parts:
            raise ValueError(
                "split 'given' takes the parts that were given, and this log came as a whole: read it with "
                "rg.Split.from_parts(train=..., valid=..., test=...) (--train, --valid, --test), or split it otherwise"
            )
        self.check_columns(interactions.log.columns)
        labels = torch.from_numpy(order(interactions.log)[PART].to_numpy(writable=True))
        made = self.model_copy(update={"valid": self._share(labels)})
        labels, found = made._told(interactions, made._with_valid(interactions, labels, seed))
        _report(found, self.unknown_items)
        return made.model_copy(update={"found": found}), labels

    def _share(self, labels: Tensor) -> float | None:
        """The share of train that becomes the validation part; None where there is one."""
        if not bool((labels == int(Label.TRAIN)).any()):
            raise ValueError("train holds no interaction; there must be something to train on")
        if not bool((labels == int(Label.VALID)).any()):
            return _DRAWN if self.valid is None else self.valid
        if self.valid is not None:
            raise ValueError(
                f"valid = {self.valid:g} draws a validation part from train, and one is given; leave one of them out"
            )
        return None

    def _with_valid(self, interactions: InteractionLog, labels: Tensor, seed: int) -> Tensor:
        """The labels with the validation part that is drawn from train, if one is."""
        if not self.valid:
            return labels
        is_train = labels == int(Label.TRAIN)
        train = interactions.ordered.filter(is_train)
        lengths = train.items.lengths
        counts = share_of(lengths, self.valid)
        counts += ((counts == 0) & (lengths >= 2)).to(counts.dtype)
        ranks = train.items.positions if self.order == "time" else random_ranks(train, seed, "given")
        drawn = lengths[train.items.rows] - ranks <= counts[train.items.rows]
        labels = labels.clone()
        labels[torch.nonzero(is_train).flatten()[drawn]] = int(Label.VALID)
        return labels

    def _told(self, interactions: InteractionLog, labels: Tensor) -> tuple[Tensor, dict[str, int]]:
        """The labels without targets that nothing before knows, and what was found of the parts."""
        log = interactions.ordered
        users = log.items.rows
        pairs = users * log.n_items + log.items.values
        known = without_unknown(log, labels)
        before = labels == int(Label.TRAIN)
        found = {"train": int(before.sum())}
        for name, label in (("valid", Label.VALID), ("test", Label.TEST)):
            asked = labels == int(label)
            found |= {
                name: int(asked.sum()),
                f"{name}_repeats": int(np.isin(pairs[asked].numpy(), pairs[before].numpy()).sum()),
                f"{name}_unknown_users": int((asked & ~occur(users, before, log.n_users)).sum()),
                f"{name}_unknown_items": int((asked & (known != labels)).sum()),
            }
            before = before | asked
        return (known if self.unknown_items == "drop" else labels), found


def _report(found: dict[str, int], unknown_items: str) -> None:
    """Log what is odd of the parts."""
    what = {
        "repeats": "are of pairs of user and item that an earlier part has, misses where seen items are excluded",
        "unknown_users": "are of users that no earlier part has",
        "unknown_items": "are of items that no earlier part has, "
        + ("which nothing asks for" if unknown_items == "drop" else "misses for a model without item features"),
    }
    for part in ("valid", "test"):
        for name, text in what.items():
            if count := found[f"{part}_{name}"]:
                _log.warning(
                    "given split: %s of %s interactions of %s %s", f"{count:,}", f"{found[part]:,}", part, text
                )
