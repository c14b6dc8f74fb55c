"""What a sheet says of records whose numbers are known."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from made_up import BOARD, MEANS, USERS, fail, fill, jobs, opened, record, result, write_board
from refusing import refused

from recgraph import registry
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.leaderboard import sheet as sheets
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.page import group_tables, is_best, score_groups
from recgraph.leaderboard.plan import Record
from recgraph.leaderboard.sheet import Entry, Sheet, costs_of, text_of
from recgraph.leaderboard.tables import markdown


def entry(sheet: Sheet, name: str) -> Entry:
    (found,) = [entry for entry in sheet.entries if entry.name == name]
    return found


def test_every_number_of_a_table_is_that_of_the_records(board: Board) -> None:
    """Read slowly, one record after another."""
    sheet = opened(board)
    assert [table.title for table in sheet.tables] == ["seen excluded", "seen kept"]
    for name, own in MEANS.items():
        records = [job.record for job in jobs(board)[name]]
        for table in sheet.tables:
            for metric in ("ndcg@10", "recall@10"):
                values = [
                    each["scores"][table.title][metric] for each in records if each is not None
                ]
                score = sheet.score(name, table.title, metric)
                assert score is not None
                assert [*score.by_seed.values()] == values
                assert score.mean == pytest.approx(statistics.fmean(values))
                assert score.sd == (
                    pytest.approx(statistics.stdev(values)) if len(own) > 1 else None
                )
        for cost, (part, field) in {
            "training_seconds": ("training", "seconds"),
            "inference_cpu_seconds": ("inference", "cpu_seconds"),
        }.items():
            number = sheet.cost(name, cost)
            assert number is not None
            assert number.mean == pytest.approx(
                statistics.fmean(each[part][field] for each in records if each)
            )
    (group, _) = group_tables(sheet)["Interactions known of a user"]
    assert [column.label for column in group.columns] == ["1-4 (20)", "5-19 (40)"]
    expected = sheet.scores("Popularity", "seen excluded")["ndcg@10"].mean
    assert group.columns[0].numbers["Popularity"].mean == expected


def test_entries_stand_best_first_and_those_without_records_last(board: Board) -> None:
    sheet = opened(board)
    means = [
        score.mean
        for entry in sheet.entries
        if (score := sheet.score(entry.name, "seen excluded", "ndcg@10"))
    ]
    assert means == sorted(means, reverse=True)
    assert (sheet.entries[-1].name, sheet.entries[-1].records) == ("BPRMF", {})
    assert repr(sheet).endswith("7 of 10 trainings are done)")
    assert "<td>LightGCN, three layers</td>" in sheet._repr_html_()


def test_tables_have_a_protocol_each(board: Board) -> None:
    first, second = opened(board).tables
    assert first.protocol_hash != second.protocol_hash
    assert (first.protocol["seen"], first.protocol["cutoffs"], first.n_users) == (
        "exclude",
        "10",
        USERS,
    )


def test_cards(board: Board) -> None:
    sheet = opened(board)
    own = entry(sheet, "LightGCN")
    assert own.spec.note == "Two layers."
    assert own.settings == ["max_epochs=3", "n_layers=2"]
    assert own.configuration["config"]["n_layers"] == 2
    assert sheet.cost("Popularity", "epochs") is None
    assert own.curves == [(seed, "ndcg@10", [(1, 0.1), (2, 0.5)]) for seed in range(3)]
    assert own.provenance["machine"] == ["a machine, 2 cores, 1 thread"]
    assert "--seed 2 " in own.command(own.jobs[2])


def test_what_has_no_record_is_said(board: Board) -> None:
    sheet = opened(board)
    failed = [
        (own.name, job.seed, failure["error"]) for own, job, failure in sheet.lacking if failure
    ]
    assert failed == [("BPRMF", 1, "ValueError")]
    assert [(own.name, job.seed) for own, job, failure in sheet.lacking if not failure] == [
        ("BPRMF", 0),
        ("BPRMF", 2),
    ]
    fail(board, "LightGCN", 0)
    assert {own.name for own, *_ in opened(board).lacking} == {"BPRMF"}, "it has a record"
    fill(board, {"BPRMF": [0.1, 0.1, 0.1]})
    assert not opened(board).lacking


def test_records_of_other_data_are_not_shown(board: Board) -> None:
    for job in jobs(board)["LightGCN"]:
        made = job.record
        assert made is not None
        job.save({**made, "data_hash": "e" * 16, "at": "2025-01-01T00:00:00+00:00"})
    sheet = opened(board)
    assert (entry(sheet, "LightGCN").records, entry(sheet, "LightGCN").n_stale) == ({}, 3)
    assert "LightGCN" in {own.name for own, *_ in sheet.lacking}


def test_protocols_that_differ_are_refused(board: Board) -> None:
    fill(board, {"BPRMF": [0.1]}, split_hash="6" * 64)
    with refused("split_hash", by=ProtocolMismatch):
        opened(board)


def test_tables_of_nodes(tmp_path: Path) -> None:
    made = write_board(
        tmp_path, "metrics = ['macro_f1']\nseeds = [0]\n[[models]]\nmodel = 'meow'\n", "acm"
    )
    (job,) = jobs(made)["MEOW"]
    scores = {
        "20 labels a class": {"macro_f1": 0.9, "auc": 0.8},
        "k-means": {"nmi": 0.5, "ari": 0.4},
    }
    protocol = {"protocol": {"task_hash": "7" * 64}, "protocol_hash": "8" * 16}
    job.save(record(job, scores, dict.fromkeys(scores, protocol)))
    labels, clusters = opened(made).tables
    assert (labels.metrics, clusters.metrics) == (("macro_f1",), ("nmi", "ari"))
    assert labels.n_users is None


def test_a_metric_that_is_nan_is_shown_and_never_the_best(tmp_path: Path) -> None:
    made = write_board(tmp_path, BOARD.replace('["ndcg@10", "recall@10"]', '["gini@10"]'))
    for name, value in (("LightGCN", float("nan")), ("BPRMF", 0.3), ("Popularity", 0.4)):
        for job in jobs(made)[name]:
            found = result("exclude", [0.1]).to_dict()
            protocols = {"seen excluded": {**found, "metrics": None}}
            job.save(record(job, {"seen excluded": {"gini@10": value}}, protocols))
    sheet = opened(made)
    assert [entry.name for entry in sheet.entries[:3]] == ["BPRMF", "Popularity", "LightGCN"]
    column = score_groups(sheet)[0].columns[0]
    assert [name for name in column.numbers if is_best(column, name)] == ["BPRMF"]


def test_the_text_of_a_model() -> None:
    class Mine:
        """Does :class:`~recgraph.models.closed_form.linear.EASE` ``better``.

        Source: Me and You, A Paper: With a Title (RecSys 2031), section 4. More of it.

        Departures: none
        worth a word.
        """

    text = text_of(Mine)  # type: ignore[arg-type]
    assert text == [
        "Does EASE better.",
        "Source: Me and You, A Paper: With a Title (RecSys 2031)",
        "Departures: none worth a word.",
    ]
    for name in registry.names("model"):
        cls = registry.load("model", name)
        if cls.__module__.startswith("recgraph."):
            assert len(text_of(cls)) > 1 or name == "popularity", f"{name}: say whose model it is"


@pytest.mark.parametrize(
    ("device", "cuda", "wh"), [("cpu", None, 26.0), ("auto", None, 26.0), ("cuda:0", "a", None)]
)
def test_energy_is_that_of_the_core_and_of_the_memory(
    device: str, cuda: str | None, wh: float | None
) -> None:
    """Two hours at 10 W of a core and 3 W of 8 GiB; of an accelerator CPU time tells nothing."""
    made: Record = {
        "training": {"seconds": 1, "cpu_seconds": 7200.0, "epochs": 0},
        "inference": {"seconds": 1, "cpu_seconds": 1},
        "peak_memory_mb": 8192.0,
        "n_parameters": 1,
        "device": device,
        "provenance": {"cuda": cuda},
    }
    assert costs_of(made)["training_wh"] == (None if wh is None else pytest.approx(wh))


@pytest.mark.parametrize(
    ("near", "expected"), [(0.01, "LightGCN"), (0.0, "LightGCN, three layers")]
)
def test_the_cheapest_is_sought_among_the_nearly_best(
    board: Board, near: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "NEAR", near)
    sheet = opened(board)
    for name, spent in {"LightGCN": 50.0, "LightGCN, three layers": 200.0}.items():
        key = (name, "", "", "", "training_cpu_seconds")
        sheet.numbers[key] = sheets.Number(dict.fromkeys(sheet.numbers[key].by_seed, spent))
    found = sheet.cheapest
    best = sheet.entries[0].name
    assert found == (best, expected if near else best)


def test_what_entries_have_beyond_transitions(tmp_path: Path) -> None:
    fill(
        board := write_board(
            tmp_path, BOARD.replace('"popularity"', '"transitions"\nname = "Popularity"')
        )
    )
    sheet = opened(board)
    one, base = (
        sheet.scores(name, "seen kept")["ndcg@10"].mean for name in ("LightGCN", "Popularity")
    )
    assert f" / {100 * (one / base - 1):+.0f} %," in markdown([sheet], "shop")
