"""Tests of significance against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from refusing import refused
from scipy import stats

from recgraph.evaluate import Protocol, ProtocolMismatch, Result
from recgraph.evaluate.significance import (
    bootstrap,
    cohen_d,
    compare_values,
    holm,
    over_folds,
    over_seeds,
    over_users,
    paired_t,
    randomisation,
    welch,
)

RNG = np.random.default_rng(0)
A = RNG.random(80)
B = A + RNG.normal(0.03, 0.1, 80)


def result(values: np.ndarray, protocol: Protocol | None = None) -> Result:
    return Result(protocol or Protocol(), np.arange(len(values)), {"ndcg@10": np.asarray(values, dtype=float)})


def test_t_is_scipys() -> None:
    assert paired_t(B - A) == pytest.approx(stats.ttest_rel(B, A).pvalue)


def test_randomisation_is_scipys_permutation_test() -> None:
    few = (B - A)[:10]
    exact = stats.permutation_test((few,), lambda x: x.mean(), permutation_type="samples", n_resamples=np.inf)
    assert randomisation(few) == pytest.approx(exact.pvalue)
    rng = np.random.default_rng(1)
    drawn = stats.permutation_test(
        (B - A,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=20_000, rng=rng, vectorized=True
    )
    assert randomisation(B - A, n_draws=20_000) == pytest.approx(drawn.pvalue, abs=0.01)
    # 2 of 4 sign patterns of two equal differences are as great
    assert randomisation([1.0, 1.0]) == 0.5
    assert randomisation(np.zeros(100)) == 1
    assert randomisation(np.ones(100), n_draws=99) == 1 / 100


def test_bootstrap_is_scipys() -> None:
    other = stats.bootstrap((B - A,), np.mean, method="percentile", rng=np.random.default_rng(2))
    interval = bootstrap(B - A)
    assert interval.low == pytest.approx(other.confidence_interval.low, abs=0.003)
    assert interval.high == pytest.approx(other.confidence_interval.high, abs=0.003)
    assert bootstrap(B - A) == interval
    assert bootstrap(B - A, seed=1) != interval


@pytest.mark.parametrize("test", [paired_t, lambda values: randomisation(values, n_draws=199)])
def test_p_values_are_uniform_where_there_is_no_difference(test) -> None:
    rng = np.random.default_rng(4)
    values = np.array([test(rng.normal(0, 1, 30)) for _ in range(400)])
    assert abs((values < 0.05).mean() - 0.05) < 0.035
    assert abs(values.mean() - 0.5) < 0.06


def test_holm_by_hand() -> None:
    # times 4, 3, 2, 1 in ascending order, never descending
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_effect_sizes_by_hand() -> None:
    assert cohen_d([1, 2, 3]) == 2
    assert cohen_d([0, 0]) == 0
    assert cohen_d([1, 1]) == np.inf


def test_the_order_of_seeds_makes_no_difference() -> None:
    seeds = [result(A), result(A / 3), result(A / 7)]
    found, turned = (over_users(order, result(B), "ndcg@10") for order in (seeds, seeds[::-1]))
    assert found.difference == turned.difference
    assert found.p_values == turned.p_values


def test_over_users_and_over_seeds() -> None:
    found = over_users(result(A), result(B), "ndcg@10")
    assert found.n == 80
    assert found.difference == pytest.approx((B - A).mean())
    assert found.interval.low < found.difference < found.interval.high
    assert found.p_values["t"] == paired_t(B - A)
    assert found == compare_values(A, B)
    several = over_users([result(A), result(A + 0.2)], result(B), "ndcg@10")
    assert several.difference == pytest.approx((B - A - 0.1).mean())
    seeds = over_seeds([result(A + i / 50) for i in range(4)], [result(B + i / 40) for i in range(4)], "ndcg@10")
    assert seeds.n == 4
    assert seeds.p_values["randomisation"] == 2 / 16
    missing = A.copy()
    missing[:5] = np.nan
    assert compare_values(missing, B).n == 75


def test_what_cannot_be_compared() -> None:
    with refused("seen", by=ProtocolMismatch):
        over_users(result(A), result(B, Protocol(seen="exclude")), "ndcg@10")
    with refused("seen", by=ProtocolMismatch):
        over_seeds([result(A)] * 2, [result(B, Protocol(seen="exclude"))] * 2, "ndcg@10")
    with refused("users"):
        over_users(result(A), result(B[:50]), "ndcg@10")
    with refused("gini@10"):
        over_users(result(A), result(B), "gini@10")
    with refused("pairs"):
        compare_values([1.0], [2.0])


def of_folds(shift: float, values: list[list[float]], log: str = "one") -> list[Result]:
    """Results of folds, each with users of its own index."""
    made = []
    for fold, own in enumerate(values):
        protocol = Protocol(split_hash=f"fold {fold}")
        made.append(Result(protocol, np.arange(len(own)), {"ndcg@10": np.array(own) + shift}, log_hash=log))
    return made


def test_folds_count_alike_and_users_once() -> None:
    values = [[0.1, 0.2, 0.3], [0.3, 0.5]]
    a, b = of_folds(0, values), of_folds(0, [[0.2, 0.2, 0.5], [0.3, 0.7]])
    found = over_folds(a, b, "ndcg@10", n_draws=99)
    assert found.n == 3
    assert found.difference == pytest.approx(((0.1 + 0 + 0.2) / 3 + (0 + 0.2) / 2) / 2)
    with refused("same split"):
        over_folds([a[0]] * 2, [b[0]] * 2, "ndcg@10")
    with refused("logs"):
        over_folds([a[0], of_folds(0, values, "two")[1]], b, "ndcg@10")


def test_welch_is_scipys() -> None:
    a, b = A[:5], B[5:12]
    found = welch(a, b)
    other = stats.ttest_ind(b, a, equal_var=False)
    assert found.p_value == pytest.approx(other.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(other.confidence_interval(0.95)))
    assert found.difference == pytest.approx(b.mean() - a.mean())


def test_numbers_of_seeds_make_no_difference() -> None:
    # the mean over five or seven equal values differs from that over one in its last digit
    values = np.tile(1 / np.log2(np.arange(2, 22)), 10)
    for n in (5, 6, 7):
        found = over_users(result(values), [result(values)] * n, "ndcg@10", n_draws=999)
        assert (found.difference, found.cohen_d, *found.p_values.values()) == (0, 0, 1, 1)
    found = welch([0.1] * 2, [0.1] * 3)
    assert (found.difference, found.p_value, found.hedges_g) == (0, 1, 0)
    # a small difference is still one
    assert compare_values(values, values + 1e-9, n_draws=999).p_values["randomisation"] == 0.001
