"""What a team types: serve from everything, measure on what is held out, give a run more epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refusing import refused

import recgraph as rg

pd = pytest.importorskip("pandas")
N_USERS, N_FILMS, LENGTH = 40, 30, 8
SMALL = {"hidden_dim": 16, "encoder": {"n_layers": 1, "n_heads": 2}}


@pytest.fixture(scope="module")
def frame() -> Any:
    """A log in which each film is followed by the next one; users 100 to 104 have one or two rows."""
    rows = [
        (user, f"film-{(user + step) % N_FILMS}", 100 * user + step)
        for user in range(N_USERS)
        for step in range(LENGTH)
    ]
    rows += [(100 + user, f"film-{user + step}", step) for user in range(5) for step in range(1 + user % 2)]
    return pd.DataFrame(rows, columns=["user_id", "movie_id", "ts"])


@pytest.fixture(scope="module")
def data(frame: Any) -> rg.Interactions:
    return rg.Interactions.from_frame(frame, user="user_id", item="movie_id", timestamp="ts")


def pairs(found: Any) -> set[tuple[int, str]]:
    return set(zip(found["user_id"], found["movie_id"], strict=True))


def newest(frame: Any) -> set[tuple[int, str]]:
    return pairs(frame.sort_values("ts").groupby("user_id").tail(1))


def test_nobody_is_recommended_what_they_have_just_had(frame: Any, data: rg.Interactions, tmp_path: Path) -> None:
    """Line 1: 221 of 5,000 users were."""
    users = sorted(frame["user_id"].unique())
    model, settings = rg.models.SASRec(**SMALL), {"seed": 7, "device": "cpu", "learning_rate": 0.01}
    run = rg.fit(model, data, max_epochs=20, **settings)  # type: ignore[arg-type]
    run.save(tmp_path / "bundle")
    for served in (run, rg.load(tmp_path / "bundle")):
        assert not pairs(frame) & pairs(served.recommend(users=users, k=5))
    # the film after the newest one is what the log was made with
    first = run.recommend(users=list(range(N_USERS)), k=1)
    expected = {(user, f"film-{(user + LENGTH) % N_FILMS}") for user in range(N_USERS)}
    assert len(pairs(first) & expected) > N_USERS // 2
    # a fit on the training part of a split is for measuring: it is blind to the newest film
    split = data.split("leave-one-out")
    measured = rg.fit(rg.models.SASRec(**SMALL), split, max_epochs=20, **settings)  # type: ignore[arg-type]
    assert measured.evaluate("test")["exclude"].metrics["ndcg@10"] > 0.3
    assert newest(frame) & pairs(measured.recommend(users=list(range(N_USERS)), k=5))


def test_both_at_once(frame: Any, data: rg.Interactions) -> None:
    split = data.split("leave-one-out")
    run = rg.fit(rg.models.SASRec(**SMALL), split, refit=True, max_epochs=6, seed=7, device="cpu")
    assert run.selection is not None
    assert run.selection.evaluate("test")["keep"].protocol.fitted_on == "train"
    assert not pairs(frame) & pairs(run.recommend(users=sorted(frame["user_id"].unique()), k=5))
    with refused("fitted on all"):
        run.evaluate("test")


def test_short_users_are_kept_in_training(data: rg.Interactions, caplog: pytest.LogCaptureFixture) -> None:
    """Line 1: they were an error."""
    split = data.split("leave-one-out")
    assert "5 of 45 users" in caplog.text
    assert split.train.n_interactions == N_USERS * (LENGTH - 2) + 7
    assert (len(split.valid), len(split.test)) == (N_USERS, N_USERS)


def test_a_part_that_was_fitted_on_is_not_evaluated(data: rg.Interactions) -> None:
    """Line 11: NDCG@10 of .577 instead of .390, without a word."""
    split = data.split("leave-one-out")
    honest = rg.fit(rg.models.EASE(), split, seed=0).evaluate("valid")["keep"].metrics["ndcg@10"]
    run = rg.fit(rg.models.EASE(), split, seed=0, fit_on="train+valid")
    with refused("fitted on train+valid"):
        run.evaluate("valid")
    leaked = run.evaluate("valid", allow_fitted=True)["keep"]
    assert leaked.protocol.fitted_on == "train+valid"
    assert leaked.metrics["ndcg@10"] > honest
    everything = rg.fit(rg.models.EASE(), split, seed=0, fit_on="all")
    for part in ("valid", "test"):
        with refused("fitted on all"):
            everything.evaluate(part)
