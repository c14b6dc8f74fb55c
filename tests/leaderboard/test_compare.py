"""Marks: against scipy, by hand, and from git alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_up import BOARD, MEANS, fill, jobs, opened, records_of, users, write_board
from refusing import refused
from scipy import stats

from recgraph.evaluate.significance import cohen_d, holm
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.compare import TESTED
from recgraph.leaderboard.page import cost_figures
from recgraph.leaderboard.sheet import Number, Sheet, update_comparisons


def scores(
    sheet: Sheet, title: str = "seen excluded", metric: str = "ndcg@10"
) -> dict[str, Number]:
    found = {entry.name: sheet.score(entry.name, title, metric) for entry in sheet.entries}
    return {name: score for name, score in found.items() if score is not None}


def marks(sheet: Sheet, title: str = "seen excluded", metric: str = "ndcg@10") -> dict[str, str]:
    return {name: score.mark for name, score in scores(sheet, title, metric).items()}


def of_users(board: Board, name: str, means: list[float]) -> np.ndarray:
    return np.mean(
        [users(job, mean, "exclude") for job, mean in zip(jobs(board)[name], means, strict=False)],
        axis=0,
    )


def test_marks(board: Board) -> None:
    assert set(marks(opened(board)).values()) == {"untested"}
    sheet = update_comparisons(opened(board))
    assert marks(sheet) == {
        "LightGCN": "tied",
        "LightGCN, three layers": "tied",
        "Popularity": "worse",
    }
    assert sheet.tested == TESTED
    # a metric that is not of the board's has none
    assert {score.mark for score in scores(sheet, metric="recall@10").values()} == {"tied", "worse"}
    fill(board, {"LightGCN, three layers": [0.2, 0.2, 0.2]})
    assert marks(update_comparisons(opened(board))) == {
        "LightGCN": "best",
        "LightGCN, three layers": "worse",
        "Popularity": "worse",
    }


def test_the_tests_are_of_users_and_of_seeds(board: Board) -> None:
    sheet = update_comparisons(opened(board))
    means = {"LightGCN": [0.40, 0.41, 0.42], "LightGCN, three layers": [0.41, 0.40, 0.415]}
    own, other = (of_users(board, name, of) for name, of in means.items())
    if own.mean() < other.mean():
        own, other = other, own
    (loser,) = [score for score in scores(sheet).values() if score.mark == "tied" and score.versus]
    over_users, over_seeds = loser.versus
    difference = own - other
    assert (over_users.over, over_users.n) == ("users", len(difference))
    assert over_users.difference == pytest.approx(difference.mean())
    assert over_users.low < over_users.difference < over_users.high
    assert over_users.effect == pytest.approx(cohen_d(difference))
    best = scores(sheet)[sheet.entries[0].name]
    t = stats.ttest_ind(list(best.by_seed.values()), list(loser.by_seed.values()), equal_var=False)
    assert (over_seeds.over, over_seeds.n) == ("seeds", 6)
    assert over_seeds.p_value == pytest.approx(t.pvalue)
    assert (over_seeds.low, over_seeds.high) == pytest.approx(tuple(t.confidence_interval()))


def test_holm_goes_over_the_whole_table(board: Board) -> None:
    sheet = update_comparisons(opened(board))
    assert sheet.is_compared
    for columns in sheet.comparisons.values():
        for place in (0, 1):
            tests = [
                several[place]
                for own in columns.values()
                for several in own.versus.values()
                if len(several) > place
            ]
            # two entries against the best in two metrics; one has a single seed
            assert len(tests) == (4, 2)[place]
            assert [test.p_adjusted for test in tests] == pytest.approx(
                holm([test.p_value for test in tests])
            )


def test_git_alone_gives_the_same_marks(board: Board) -> None:
    before = update_comparisons(opened(board))
    for path in records_of(board).glob("*.parquet"):
        path.unlink()
    assert opened(board) == before
    assert update_comparisons(opened(board)) == before


def test_marks_of_other_records_are_not_shown(board: Board) -> None:
    update_comparisons(opened(board))
    (job, *_) = jobs(board)["LightGCN"]
    made = job.record
    assert made is not None
    made["scores"]["seen excluded"]["ndcg@10"] += 0.1
    job.save(made)
    # the best entry has other scores, and the values of its users are no longer those of the record
    sheet = update_comparisons(opened(board))
    assert marks(sheet).keys() == {"LightGCN", "LightGCN, three layers", "Popularity"}
    assert set(marks(sheet).values()) == {"untested"}
    # whoever asks for values gets them made again
    assert job.is_done(made["data_hash"])
    assert not job.is_done(made["data_hash"], values=True)
    other = jobs(board)["LightGCN"][1]
    assert other.is_done(made["data_hash"], values=True)


def _without_values(board: Board, further: dict[str, list[float]]) -> Sheet:
    """The sheet once its values of users are gone and an entry came that has none either."""
    update_comparisons(opened(board))
    fill(board, further)
    for path in records_of(board).glob("*.parquet"):
        path.unlink()
    return update_comparisons(opened(board))


def test_an_entry_that_comes_leaves_the_marks_of_the_others(board: Board) -> None:
    before = update_comparisons(opened(board))
    sheet = _without_values(board, {"BPRMF": [0.3, 0.31, 0.3]})
    assert marks(sheet) == {**marks(before), "BPRMF": "untested"}
    assert not sheet.is_compared
    # the table has one entry more to correct for: its p counts as 1
    for metric in ("ndcg@10", "recall@10"):
        for name, score in scores(sheet, metric=metric).items():
            earlier = scores(before, metric=metric).get(name)
            for test, old in zip(score.versus, earlier.versus if earlier else (), strict=True):
                assert (test.p_value, test.difference) == (old.p_value, old.difference)
                assert test.p_adjusted >= old.p_adjusted
    own = [
        score.versus[0]
        for metric in ("ndcg@10", "recall@10")
        for score in scores(sheet, metric=metric).values()
        if score.versus
    ]
    assert [one.p_adjusted for one in own] == pytest.approx(
        holm([one.p_value for one in own] + [1.0, 1.0])[: len(own)]
    )
    fill(board, {**MEANS, "BPRMF": [0.3, 0.31, 0.3]})
    assert marks(update_comparisons(opened(board)))["BPRMF"] == "worse"


def test_an_entry_that_goes_leaves_the_marks_of_the_others(board: Board, tmp_path: Path) -> None:
    before = update_comparisons(opened(board))
    fewer = write_board(
        tmp_path, BOARD.replace('[[models]]\nmodel = "popularity"\nseeds = [0]\n', "")
    )
    assert marks(opened(fewer)) == {
        name: mark for name, mark in marks(before).items() if name != "Popularity"
    }


def test_two_sheets_of_one_data_set_keep_their_own(board: Board, tmp_path: Path) -> None:
    other = write_board(
        tmp_path, 'dataset = "synthetic"\n' + BOARD.replace('"ndcg@10", ', ""), "recall-alone"
    )
    before, beside = update_comparisons(opened(board)), update_comparisons(opened(other))
    assert beside.folder == before.folder
    assert sorted(path.name for path in before.folder.glob("comparisons*")) == [
        "comparisons-recall-alone.json",
        "comparisons.json",
    ]
    assert (opened(board), opened(other)) == (before, beside)
    assert set(marks(opened(board)).values()) == {"tied", "worse"}
    assert set(marks(opened(other), metric="recall@10").values()) == {"tied", "worse"}


def node_board(tmp_path: Path, values: dict[str, list[float]], metric: str = "ndcg@10") -> Sheet:
    """A sheet with values over seeds alone."""
    made = write_board(tmp_path)
    fill(made, {name: [0.1] * len(own) for name, own in values.items()})
    for name, own in values.items():
        for job, value in zip(jobs(made)[name], own, strict=False):
            one = job.record
            assert one is not None
            protocol = {"protocol": {"task_hash": "7" * 64}, "protocol_hash": "8" * 16}
            table = "20 labels a class"
            one |= {
                "scores": {table: {metric: value}},
                "protocols": {table: protocol},
                "groups": {},
            }
            job.save(one)
    return opened(made)


def test_the_lowest_is_best_of_a_metric_that_is_better_so(tmp_path: Path) -> None:
    values = {"LightGCN": [0.90, 0.91, 0.92], "BPRMF": [0.80, 0.81, 0.80], "Popularity": [0.95]}
    sheet = update_comparisons(node_board(tmp_path, values, "gini@10"))
    table = "20 labels a class"
    assert [entry.name for entry in sheet.entries[:3]] == ["BPRMF", "LightGCN", "Popularity"]
    assert marks(sheet, table, "gini@10") == {
        "BPRMF": "best",
        "LightGCN": "worse",
        "Popularity": "untested",
    }
    (test,) = scores(sheet, table, "gini@10")["LightGCN"].versus
    assert test.difference < 0
    p = stats.ttest_ind(values["BPRMF"], values["LightGCN"], equal_var=False).pvalue
    assert (test.p_value, test.p_adjusted, test.n) == (pytest.approx(p), pytest.approx(p), 6)
    # BPRMF is the better and as fast, and Popularity trains nothing
    training, _ = cost_figures(sheet)
    assert sorted(re.findall(r'class="front"[^>]*>\s*<title>([^:]*):', training.svg)) == [
        "BPRMF",
        "Popularity",
    ]


def test_a_file_that_is_not_whole_is_named(board: Board) -> None:
    update_comparisons(opened(board))
    path = records_of(board) / "comparisons.json"
    path.write_text("<<<<<<< HEAD\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with refused(str(path)):
        opened(board)
