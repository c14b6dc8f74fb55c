"""Augmentations of rows with time gaps: the tokens are those without, and gaps go where they can be followed."""

from __future__ import annotations

import pytest
import torch

from recgraph import registry
from recgraph.augment.sequence import SequenceAugmentation
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged

TRAIN = Part(Ragged.from_lists([[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5, 6]]), 9)
NAMES = [
    name
    for name in registry.names("augmentation")
    if issubclass(registry.load("augmentation", name), SequenceAugmentation)
]


def rows() -> Ragged:
    """Tokens are all different; the gap of token t is t + 20."""
    tokens = Ragged.from_lists([[1, 2, 3, 4, 5, 6], [7], [8, 9]])
    return tokens.with_values(torch.stack([tokens.values, tokens.values + 20], 1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_without_gaps(name: str) -> None:
    augmentation = registry.make("augmentation", name)
    augmentation.setup(TRAIN)
    pairs = rows()
    for seed in range(5):
        plain = augmentation(pairs.with_values(pairs.values[:, 0]), generator(seed))
        timed = augmentation(pairs, generator(seed))
        assert torch.equal(plain.offsets, timed.offsets)
        assert torch.equal(plain.values, timed.values[:, 0])
        assert bool((timed.values[timed.values[:, 0] == 0, 1] == 0).all()), "a masked token has no known gap"


@pytest.mark.parametrize("name", ["crop", "mask", "reorder"])
def test_gaps_go_with_their_tokens(name: str) -> None:
    augmentation = registry.make("augmentation", name)
    for seed in range(5):
        tokens, gaps = augmentation(rows(), generator(seed)).values.unbind(1)
        assert torch.equal(gaps, torch.where(tokens > 0, tokens + 20, 0))


@pytest.mark.parametrize("name", NAMES)
def test_times_go_where_gaps_go(name: str) -> None:
    augmentation = registry.make("augmentation", name)
    augmentation.setup(TRAIN)
    pairs = rows()
    triples = pairs.with_values(torch.cat([pairs.values, pairs.values[:, 1:] + 100], 1))
    for seed in range(3):
        of_pairs, of_triples = (augmentation(given, generator(seed)) for given in (pairs, triples))
        assert torch.equal(of_triples.values[:, :2], of_pairs.values)
        gaps, times = of_triples.values[:, 1:].unbind(1)
        assert torch.equal(times, torch.where(gaps > 0, gaps + 100, 0))


def test_substitutes_keep_the_gap_of_their_place_and_insertions_have_none() -> None:
    substitute = registry.make("augmentation", {"name": "substitute", "ratio": 0.9})
    substitute.setup(TRAIN)
    given = rows()
    view = substitute(given, generator())
    assert not torch.equal(view.values[:, 0], given.values[:, 0])
    assert torch.equal(view.values[:, 1], given.values[:, 1])
    insert = registry.make("augmentation", {"name": "insert", "ratio": 0.9})
    insert.setup(TRAIN)
    longer = insert(given.take(torch.tensor([0])), generator())
    assert len(longer.values) > 6
    assert not longer.values[:, 1].any()
