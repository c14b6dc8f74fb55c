"""Logs in which users buy again: the selection keeps seen items as candidates, and an update takes
them as new.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import recgraph as rg


def _basket(again: bool, n_users: int = 60, length: int = 12) -> pl.DataFrame:
    """Users with few items each that they buy in turn, or with another item each time."""
    draw = np.random.default_rng(5)
    rows = [
        (user, item, 100 * user + step)
        for user in range(n_users)
        for step, item in enumerate(
            draw.permutation(40)[:length] % 4 if again else draw.permutation(40)[:length]
        )
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("refit", [True, False])
def test_the_selection_keeps_what_users_buy_again(
    again: bool, refit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    split = rg.load_data(_basket(again)).split()
    caplog.clear()
    run = rg.fit(rg.models.BPRMF(hidden_dim=4), split, seed=0, max_epochs=1, refit=refit)
    assert isinstance(run, rg.Run)
    wanted = "keep" if again else "exclude"
    assert (run.record.training["select_seen"], run.record.data.times) == (wanted, "own")  # type: ignore[attr-defined]
    assert ("keep-seen" in caplog.text) == again
    if refit:
        assert run.selection is not None
        assert run.selection.record.training["select_seen"] == wanted
    asked = rg.fit(
        rg.models.BPRMF(hidden_dim=4), split, seed=0, max_epochs=1, select_seen="exclude"
    )
    assert asked.record.training["select_seen"] == "exclude"


def test_events_that_are_logged_twice_are_no_purchases_again() -> None:
    twice = pl.concat([_basket(False)] * 2)
    assert rg.load_data(twice).ordered.repeats == 0
    assert rg.load_data(twice, timestamp="none").ordered.repeats == 0.5
    assert rg.load_data(_basket(True)).ordered.repeats == pytest.approx(8 / 12, abs=0.01)


def test_an_update_counts_as_known_what_has_the_same_time(caplog: pytest.LogCaptureFixture) -> None:
    frame = _basket(True)
    run = rg.fit(
        rg.models.SASRec(hidden_dim=4, time_gaps=True), rg.load_data(frame), seed=0, max_epochs=1
    )
    later = frame.with_columns(pl.col("timestamp") + 10_000)
    new = run.update(pl.concat([frame, later]), epochs=1, force=True)
    assert new.record.update["new_interactions"] == len(later)
    assert "taken in before" not in caplog.text
    plain = rg.fit(rg.models.SASRec(hidden_dim=4), rg.load_data(frame), seed=0, max_epochs=1)
    assert plain.update(later, epochs=1, force=True).record.update["new_interactions"] == len(later)
    assert "taken in before" in caplog.text, "without times nothing tells, but most is known"
