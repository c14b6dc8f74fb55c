"""A sheet in a notebook: its tables, with names that are no markup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
from made_board import QUALITY, made_board, made_sheets


def test_a_sheet(tmp_path: Path) -> None:
    users, nodes, nothing = made_sheets(made_board(tmp_path), tmp_path)
    text = users._repr_html_()
    assert repr(users) == f"Sheet(made, synthetic: {users.n_done} of {users.n_asked} trainings are done)"
    assert "SASRec, &lt;b&gt;sampled&lt;/b&gt; &amp; more" in text
    assert [text.count(f"<caption>{table.title}</caption>") for table in users.tables] == [1, 1]
    best = users.score("SASRec", "seen excluded", "ndcg@10")
    assert best is not None
    assert f"<td>SASRec</td><td>{best.mean:.4f}</td>" in text
    assert text.index("SASRec") < text.index("Popularity"), "best first"
    assert text.count("<td>EASE</td>") == 2
    assert len(QUALITY) * 2 == text.count("<tr><td>")
    assert "<td>AdaMEOW</td>" in nodes._repr_html_()
    assert "<table>" not in nothing._repr_html_()


def test_a_metric_that_the_records_of_an_entry_do_not_have(tmp_path: Path) -> None:
    """A board may be given a metric after some of its trainings."""
    users, *_ = made_sheets(made_board(tmp_path), tmp_path)
    without = (pl.col("entry") == "EASE") & (pl.col("metric") == "recall@10")
    text = replace(users, frame=users.frame.filter(~without))._repr_html_()
    assert re.search(r"<td>EASE</td><td>0\.\d{4}</td><td></td>", text)
