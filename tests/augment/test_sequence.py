"""Contract of all augmentations of sequences that the registry finds, and their distributions
against slow oracles.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from refusing import refused
from scipy.stats import chi2

from recgraph import registry
from recgraph.augment.sequence import Crop, Mask, Reorder, SequenceAugmentation, TwoViews
from recgraph.augment.similar import Insert, SimilarityAugmentation, Substitute
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged

N_ITEMS = 30


def _of_sequences() -> list[str]:
    classes = {name: registry.load("augmentation", name) for name in registry.names("augmentation")}
    return [name for name, cls in classes.items() if issubclass(cls, SequenceAugmentation)]


def _train() -> Part:
    draw = random.Random(3)
    rows = [draw.sample(range(N_ITEMS), draw.randint(2, 12)) for _ in range(40)]
    return Part(Ragged.from_lists(rows), N_ITEMS)


def _made(name: str) -> SequenceAugmentation:
    view: SequenceAugmentation = registry.load("augmentation", name)()
    view.setup(_train())
    return view


def _batch(device: torch.device) -> Ragged:
    draw = random.Random(7)
    lengths = [1, 5, 2, 1, 9, 0, 3, 10, 1, 20]
    return Ragged.from_lists(
        [[draw.randint(1, N_ITEMS) for _ in range(n)] for n in lengths], device
    )


def _generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


# --- contract -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _of_sequences())
def test_contract(name: str, device: torch.device) -> None:
    view, batch = _made(name), _batch(device)
    before = batch.values.clone()
    out = view(batch, _generator(1, device))

    assert out.values.device.type == out.device.type == device.type
    assert out.n_rows == batch.n_rows
    assert out.values.dtype == torch.int64
    assert int(out.offsets[-1]) == out.values.numel()
    assert torch.equal(batch.values, before), "the input must not change"
    assert bool(((out.values >= 0) & (out.values <= N_ITEMS)).all())
    for row, made in zip(batch.to_lists(), out.to_lists(), strict=True):
        assert made == row if len(row) < 2 else len(made) > 0


@pytest.mark.parametrize("name", _of_sequences())
def test_same_generator_same_view(name: str, device: torch.device) -> None:
    view, batch, before = _made(name), _batch(device), torch.random.get_rng_state()
    drawn = [view(batch, _generator(seed, device)).to_lists() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", _of_sequences())
def test_batches_without_long_or_without_any_rows(name: str) -> None:
    view = _made(name)
    for rows in ([[4], [5]], [[], []], []):
        assert view(Ragged.from_lists(rows), _generator(1)).to_lists() == rows


# --- distributions --------------------------------------------------------------------------------


def _crop_all(row: tuple[int, ...], ratio: float) -> list[tuple[int, ...]]:
    kept = max(math.floor(ratio * len(row)), 1)
    return [row[start : start + kept] for start in range(len(row) - kept + 1)]


def _mask_all(row: tuple[int, ...], ratio: float) -> list[tuple[int, ...]]:
    chosen = combinations(range(len(row)), math.floor(ratio * len(row)))
    return [
        tuple(0 if place in hit else token for place, token in enumerate(row)) for hit in chosen
    ]


def _reorder_all(row: tuple[int, ...], ratio: float) -> list[tuple[int, ...]]:
    width = math.floor(ratio * len(row))
    return [
        row[:start] + order + row[start + width :]
        for start in range(len(row) - width + 1)
        for order in permutations(row[start : start + width])
    ]


def assert_drawn_from(drawn: list[tuple[int, ...]], equally_likely: list[tuple[int, ...]]) -> None:
    """Chi-square test at 1e-4 against the exact distribution (outcomes may be listed more than
    once).
    """
    expected = {
        out: n * len(drawn) / len(equally_likely) for out, n in Counter(equally_likely).items()
    }
    seen = Counter(drawn)
    assert seen.keys() <= expected.keys()
    statistic = sum((seen[out] - n) ** 2 / n for out, n in expected.items())
    assert statistic <= chi2.ppf(1 - 1e-4, max(len(expected) - 1, 1))


@pytest.mark.parametrize("length", [2, 5])
@pytest.mark.parametrize(
    ("view", "oracle"),
    [
        (Crop(), _crop_all),
        (Crop(ratio=0.1), _crop_all),
        (Mask(), _mask_all),
        (Mask(ratio=1.0), _mask_all),
        (Reorder(), _reorder_all),
        (Reorder(ratio=1.0), _reorder_all),
    ],
)
def test_every_outcome_has_its_probability(
    view: SequenceAugmentation,
    oracle: Callable[[tuple[int, ...], float], list[tuple[int, ...]]],
    length: int,
) -> None:
    row = tuple(range(1, length + 1))
    # rows of another length between, so that rows must be kept apart
    batch = Ragged.from_lists([row, (7, 8, 9, 10, 11, 12)] * 12_000)
    drawn = [tuple(made) for made in view(batch, _generator(length)).to_lists()[::2]]
    assert_drawn_from(drawn, oracle(row, view.config.ratio))


# --- two views ------------------------------------------------------------------------------------


class _Stamp(SequenceAugmentation):
    """Writes its own token everywhere: shows which operation a row got."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        return sequences.with_values(torch.full_like(sequences.values, self.token))


def test_two_views_draw_ordered_pairs_of_different_operations_per_row(device: torch.device) -> None:
    pair = TwoViews([_Stamp(101), _Stamp(102), _Stamp(103)], per="row")
    rows = [[1, 2, 3], [4], [5, 6]] * 2_000
    first, second = (
        out.to_lists() for out in pair(Ragged.from_lists(rows, device), _generator(5, device))
    )
    assert [len(row) for row in first] == [len(row) for row in second] == [len(row) for row in rows]
    assert first[1::3] == second[1::3] == rows[1::3]
    drawn = [
        (one[0], two[0]) for one, two, row in zip(first, second, rows, strict=True) if len(row) > 1
    ]
    assert_drawn_from(drawn, list(permutations((101, 102, 103), 2)))


def test_two_views_per_batch_and_independent() -> None:
    batch = Ragged.from_lists([[1, 2], [3], [4, 5, 6]])
    stamps = [_Stamp(101), _Stamp(102)]
    seen, independent = set(), set()
    for seed in range(60):
        first, second = TwoViews(stamps, per="batch")(batch, _generator(seed))
        tokens = {*first.values.tolist(), *second.values.tolist()}
        assert tokens == {101, 102, 3}
        seen.add(first.values[0].item())
        first, second = TwoViews(stamps, per="batch", distinct=False)(batch, _generator(seed))
        independent.add((first.values[0].item(), second.values[0].item()))
    assert seen == {101, 102}
    assert len(independent) == 4


def test_two_views_refuses_what_it_cannot_do() -> None:
    for given, name in (
        (["crop"], "augmentations"),
        (["crop", "no_such"], "no_such"),
        (["crop", "edge_drop"], "edge"),
    ):
        with refused(name):
            TwoViews(given)


# Insert and substitute: the table of similar items and the distribution of views, against slow
# oracles


# item 5 is alone with its user, item 6 is in no history
HISTORIES = [[0, 2], [1, 3], [0, 1, 4], [3, 2], [3, 4], [3, 4], [0, 4], [5], [2, 4, 2]]
N_SIMILAR = 7


def _ranked() -> dict[int, list[int]]:
    """Token -> tokens of similar items, most similar first, by the published formula in plain
    loops.
    """
    common, users = np.zeros((N_SIMILAR, N_SIMILAR)), np.zeros(N_SIMILAR)
    for history in map(set, HISTORIES):
        for i in history:
            users[i] += 1
            for j in history - {i}:
                common[i, j] += 1 / math.log(1 + len(history))
    ranked = {0: []}
    for i in range(N_SIMILAR):
        value = {
            j: common[i, j] / math.sqrt(users[i] * users[j])
            for j in range(N_SIMILAR)
            if common[i, j]
        }
        assert len(set(value.values())) == len(value), "no ties in this data"
        ranked[i + 1] = [j + 1 for j in sorted(value, key=lambda j: -value[j])]
    return ranked


def _substituted(
    row: tuple[int, ...], chosen: tuple[int, ...], of: dict[int, int]
) -> tuple[int, ...]:
    return tuple(
        of.get(token, token) if place in chosen else token for place, token in enumerate(row)
    )


def _inserted(row: tuple[int, ...], chosen: tuple[int, ...], of: dict[int, int]) -> tuple[int, ...]:
    out: list[int] = []
    for place, token in enumerate(row):
        out += [of[token]] if place in chosen and token in of else []
        out.append(token)
    return tuple(out)


@pytest.mark.parametrize("n_similar", [1, 2, 20])
def test_similar_items_are_drawn_from_the_nearest(n_similar: int, device: torch.device) -> None:
    view = Substitute(n_similar=n_similar)
    view.setup(Part(Ragged.from_lists(HISTORIES, device), N_SIMILAR))
    generator = _generator(0, device)
    tokens = torch.arange(N_SIMILAR + 1, device=device).repeat(400)
    drawn = view.similar(tokens, generator).view(400, -1).T.tolist()
    for token, expected in _ranked().items():
        assert set(drawn[token]) == (set(expected[:n_similar]) or {0})


@pytest.mark.parametrize(
    ("row", "ratio"), [((1, 2), 0.1), ((3, 6, 1), 1.0), ((4, 0, 5, 3, 7), 0.4), ((6, 7), 0.4)]
)
@pytest.mark.parametrize(("kind", "oracle"), [(Substitute, _substituted), (Insert, _inserted)])
def test_every_similar_item_has_its_probability(
    kind: type[SimilarityAugmentation],
    oracle: Callable[..., tuple[int, ...]],
    row: tuple[int, ...],
    ratio: float,
) -> None:
    view = kind(ratio=ratio)
    view.setup(Part(Ragged.from_lists(HISTORIES), N_SIMILAR))
    nearest = {token: found[0] for token, found in _ranked().items() if found}
    count = max(math.floor(ratio * len(row)), 1)
    likely = [oracle(row, chosen, nearest) for chosen in combinations(range(len(row)), count)]
    batch = Ragged.from_lists([row, (1, 2, 3, 4, 5, 1)] * 3_000)
    drawn = [tuple(made) for made in view(batch, _generator(len(row))).to_lists()[::2]]
    assert_drawn_from(drawn, likely)


# Augmentations of rows with time gaps: the tokens are those without, and gaps go where they can be
# followed


TRAIN = Part(Ragged.from_lists([[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5, 6]]), 9)


def rows() -> Ragged:
    """Tokens are all different; the gap of token t is t + 20."""
    tokens = Ragged.from_lists([[1, 2, 3, 4, 5, 6], [7], [8, 9]])
    return tokens.with_values(torch.stack([tokens.values, tokens.values + 20], 1))


@pytest.mark.parametrize("name", _of_sequences())
def test_tokens_are_those_without_gaps_and_times_go_where_gaps_go(name: str) -> None:
    augmentation = registry.make("augmentation", name)
    augmentation.setup(TRAIN)
    pairs = rows()
    triples = pairs.with_values(torch.cat([pairs.values, pairs.values[:, 1:] + 100], 1))
    for seed in range(5):
        plain = augmentation(pairs.with_values(pairs.values[:, 0]), _generator(seed))
        of_pairs, of_triples = (augmentation(given, _generator(seed)) for given in (pairs, triples))
        assert torch.equal(plain.offsets, of_pairs.offsets)
        assert torch.equal(plain.values, of_pairs.values[:, 0])
        assert torch.equal(of_triples.values[:, :2], of_pairs.values)
        tokens, gaps, times = of_triples.values.unbind(1)
        assert not gaps[tokens == 0].any(), "a masked token has no known gap"
        assert torch.equal(times, torch.where(gaps > 0, gaps + 100, 0))


@pytest.mark.parametrize("name", ["crop", "mask", "reorder"])
def test_gaps_go_with_their_tokens(name: str) -> None:
    augmentation = registry.make("augmentation", name)
    for seed in range(5):
        tokens, gaps = augmentation(rows(), _generator(seed)).values.unbind(1)
        assert torch.equal(gaps, torch.where(tokens > 0, tokens + 20, 0))


def test_substitutes_keep_the_gap_of_their_place_and_insertions_have_none() -> None:
    substitute = registry.make("augmentation", {"name": "substitute", "ratio": 0.9})
    substitute.setup(TRAIN)
    given = rows()
    view = substitute(given, _generator(0))
    assert not torch.equal(view.values[:, 0], given.values[:, 0])
    assert torch.equal(view.values[:, 1], given.values[:, 1])
    insert = registry.make("augmentation", {"name": "insert", "ratio": 0.9})
    insert.setup(TRAIN)
    longer = insert(given.take(torch.tensor([0])), _generator(0))
    assert len(longer.values) > 6
    assert not longer.values[:, 1].any()
