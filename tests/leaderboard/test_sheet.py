"""What a sheet says of records whose numbers are known."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from made_up import BOARD, MEANS, USERS, fail, fill, jobs, store_of, users, write_board

from recgraph import registry
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.entry import Entry, text_of
from recgraph.leaderboard.figures import cost_marks
from recgraph.leaderboard.page import page
from recgraph.leaderboard.rendering import markdown
from recgraph.leaderboard.sheet import Sheet, open_sheet
from recgraph.tuning.storage import open_storage


def opened(board: Board) -> Sheet:
    return open_sheet(board, board.sheets[0])


def entry(sheet: Sheet, name: str) -> Entry:
    (found,) = [entry for entry in sheet.entries if entry.name == name]
    return found


def test_scores_over_seeds(board: Board) -> None:
    sheet = opened(board)
    own = jobs(board)["LightGCN"]
    values = {
        job.seed: statistics.fmean(users(job, mean, "exclude"))
        for job, mean in zip(own, MEANS["LightGCN"], strict=False)
    }
    score = sheet.score("LightGCN", "seen excluded", "ndcg@10")
    assert score is not None
    assert score.by_seed == pytest.approx(values)
    assert score.mean == pytest.approx(statistics.fmean(values.values()))
    assert score.sd == pytest.approx(statistics.stdev(values.values()))
    assert score.text() == f"{score.mean:.4f} ± {score.sd:.4f}"
    once = sheet.score("Popularity", "seen excluded", "ndcg@10")
    assert once is not None
    assert (once.n, once.sd) == (1, None)


def test_entries_stand_best_first_and_those_without_records_last(board: Board) -> None:
    sheet = opened(board)
    means = [score.mean for entry in sheet.entries if (score := sheet.score(entry.name, "seen excluded", "ndcg@10"))]
    assert means == sorted(means, reverse=True)
    assert len(means) == 3
    last = sheet.entries[-1]
    assert (last.name, last.done, sheet.cost("BPRMF", "n_parameters")) == ("BPRMF", (), None)
    assert not any(sheet.scores("BPRMF", table.title) for table in sheet.tables)
    assert last.seeds == (0, 1, 2)


def test_tables_have_a_protocol_each(board: Board) -> None:
    first, second = opened(board).tables
    assert (first.title, second.title) == ("seen excluded", "seen kept")
    assert first.protocol_hash != second.protocol_hash
    assert (first.protocol["seen"], first.protocol["cutoffs"], first.n_users) == ("exclude", "10", USERS)


def test_cards(board: Board) -> None:
    sheet = opened(board)
    own = entry(sheet, "LightGCN")
    assert own.class_name == "LightGCN"
    assert own.note == "Two layers."
    assert own.text.source.endswith("(SIGIR 2020)")
    assert own.settings == ("max_epochs=3", "n_layers=2")
    assert own.configuration["config"]["n_layers"] == 2
    training, epochs = (sheet.cost("LightGCN", name) for name in ("training_seconds", "epochs"))
    assert training is not None
    assert training.by_seed == {0: 10, 1: 11, 2: 12}
    assert epochs is not None
    assert epochs.mean == 3
    assert sheet.cost("Popularity", "epochs") is None
    curves = sheet.frame.filter(entry="LightGCN", kind="epoch")
    assert curves.select("epoch", "value").rows() == [(1, 0.1), (2, 0.5)] * 3
    assert own.best_epochs == {0: 2, 1: 2, 2: 2}
    assert own.machines == ("a machine, 2 cores, 1 thread",)
    assert own.commits == ("0123456789ab",)
    assert sorted(own.records) == [0, 1, 2]
    assert "--seed 2 " in own.commands[2]
    assert "--seed $seed " in own.command
    assert "--cutoff 10" in own.command


def test_what_has_no_record_is_said(board: Board) -> None:
    sheet = opened(board)
    (failure,) = sheet.failures
    assert (failure.entry, failure.seed, failure.error) == ("BPRMF", 1, "ValueError")
    assert "bad" in failure.message
    assert "--seed 1 " in failure.command
    (missing,) = sheet.missing
    assert (missing.entry, missing.seeds, missing.reason) == ("BPRMF", (0, 2), "not run")


def test_a_failure_that_was_mended_is_gone(board: Board) -> None:
    fail(board, "LightGCN", 0)
    assert {failure.entry for failure in opened(board).failures} == {"BPRMF"}
    fill(board, {"BPRMF": [0.1, 0.1, 0.1]})
    assert opened(board).failures == ()
    assert not list(store_of(board).folder.glob("bprmf*.failed.json"))


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    text = 'seeds = [4]\nmodels = [{ model = "lightgcn", study = "nowhere.json" }, { model = "bprmf" }]\n'
    sheet = opened(write_board(tmp_path, text))
    assert [one.entry for one in sheet.missing] == ["LightGCN", "BPRMF"]
    assert "nowhere.json" in sheet.missing[0].reason
    assert sheet.tables == ()
    assert cost_marks(sheet, "training_seconds") == []


def test_a_study_without_a_complete_trial_is_not_there_yet(tmp_path: Path) -> None:
    with open_study(tmp_path / "study.journal") as study:
        trial = study.ask()
        text = 'seeds = [4]\nmodels = [{ model = "lightgcn", study = "../study.journal" }, { model = "bprmf" }]\n'
        sheet = opened(write_board(tmp_path, text))
        assert sheet.missing[0].reason == "study '../study.journal' has no complete trial"
        study.tell(trial, 0.5)
        study.set_user_attr("recgraph", {"model": "m:LightGCN", "space": {"fixed": {"n_layers": 1}, "searched": {}}})
        assert entry(opened(write_board(tmp_path, text)), "LightGCN").configuration["config"]["n_layers"] == 1


@contextmanager
def open_study(path: Path) -> Iterator[optuna.Study]:
    storage = open_storage(f"{path}")
    try:
        yield optuna.create_study(study_name="s", storage=storage.optuna)
    finally:
        storage.close()


def test_how_much_is_done_is_the_same_everywhere(tmp_path: Path) -> None:
    """Entries whose study is not there were asked for, too."""
    gone = '[[models]]\nmodel = "sasrec"\nstudy = "nowhere.json"\n'
    made = write_board(tmp_path)
    fill(made)
    fail(made, "BPRMF", 1)
    made = write_board(tmp_path, BOARD + gone)
    sheet = opened(made)
    assert (sheet.n_done, sheet.n_asked) == (7, 13)
    assert "7 of 13 trainings are done" in markdown([sheet], "shop")
    assert "7 of 13 trainings" in page([sheet], made)


@pytest.mark.parametrize("damage", ["cut", "conflict"])
def test_a_record_that_is_not_whole_is_named(board: Board, damage: str) -> None:
    path = sorted(store_of(board).folder.glob("lightgcn*.json"))[0]
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:400] if damage == "cut" else f"<<<<<<< HEAD\n{text}", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is not whole .*; delete it"):
        opened(board)


def test_records_of_other_data_are_not_shown(board: Board) -> None:
    store = store_of(board)
    for job in jobs(board)["LightGCN"]:
        made = store.record(job)
        assert made is not None
        store.save(job, {**made, "data_hash": "e" * 16, "at": "2025-01-01T00:00:00+00:00"})
    sheet = opened(board)
    assert entry(sheet, "LightGCN").done == ()
    assert sheet.n_stale == 3
    assert {one.entry: one.reason for one in sheet.missing}["LightGCN"] == "made with other data, to be run again"


def test_protocols_that_differ_are_refused(board: Board) -> None:
    fill(board, {"BPRMF": [0.1]}, split_hash="6" * 64)
    with pytest.raises(ProtocolMismatch, match="records of 'synthetic' under 'seen excluded'"):
        opened(board)


@pytest.mark.parametrize(("field", "value"), [("cutoffs", [5, 10]), ("tie_seed", 7)])
def test_protocols_may_differ_in_their_cut_offs_alone(board: Board, field: str, value: object) -> None:
    store = store_of(board)
    before = opened(board)
    for job in jobs(board)["LightGCN"]:
        made = store.record(job)
        assert made is not None
        for protocol in made["protocols"].values():
            protocol["protocol"][field] = value
            protocol["protocol_hash"] = Protocol.of(protocol["protocol"]).hash
        store.save(job, made)
    if field == "cutoffs":
        assert opened(board).scores("LightGCN", "seen kept") == before.scores("LightGCN", "seen kept")
    else:
        with pytest.raises(ProtocolMismatch, match="which differ in tie_seed;"):
            opened(board)


def test_the_pareto_front(board: Board) -> None:
    marks = {mark.name: mark for mark in cost_marks(opened(board), "training_seconds")}
    assert marks["Popularity"].x == 0.25
    best = max(marks.values(), key=lambda mark: mark.y)
    # both LightGCNs cost the same: the better one and the cheapest are not dominated
    assert {name for name, mark in marks.items() if mark.kind == "front"} == {"Popularity", best.name}


def test_groups(board: Board) -> None:
    excluded, kept = opened(board).groups
    assert (excluded.table, kept.table, excluded.label) == (
        "seen excluded",
        "seen kept",
        "Interactions known of a user",
    )
    assert excluded.sizes == {"1-4": 20, "5-19": 40}
    score = opened(board).score("LightGCN", "seen excluded", "ndcg@10")
    assert score is not None
    assert excluded.rows["LightGCN"]["1-4"].mean == pytest.approx(score.mean)
    assert "BPRMF" not in excluded.rows


def test_a_node_task_has_its_own_tables(tmp_path: Path) -> None:
    text = 'metrics = ["macro_f1"]\n[[models]]\nmodel = "meow"\n'
    made = write_board(tmp_path, text, "acm")
    fill(made, {"MEOW": [0.1, 0.2]})
    for job in jobs(made)["MEOW"][:2]:
        one = store_of(made).record(job)
        assert one is not None
        scores = {"20 labels a class": {"macro_f1": 0.9, "auc": 0.8}, "k-means": {"nmi": 0.5, "ari": 0.4}}
        protocol = {"protocol": {"task_hash": "7" * 64}, "protocol_hash": "8" * 16}
        changed = {**one, "scores": scores, "protocols": dict.fromkeys(scores, protocol), "groups": {}}
        store_of(made).save(job, changed)
    labels, clusters = opened(made).tables
    assert (labels.metrics, clusters.metrics) == (("macro_f1",), ("nmi", "ari"))
    assert labels.n_users is None


def test_the_text_of_a_model() -> None:
    class Mine:
        """Does :class:`~recgraph.models.closed_form.linear.EASE` ``better``.

        Source: Me and You, A Paper: With a Title (RecSys 2031), section 4. More of it.

        Departures: none
        worth a word.
        """

    text = text_of(Mine)  # type: ignore[arg-type]
    assert text.summary == "Does EASE better."
    assert text.source == "Me and You, A Paper: With a Title (RecSys 2031)"
    assert text.departures == "none worth a word."
    assert len(text.paragraphs) == 3


def test_every_model_has_a_summary() -> None:
    for name in registry.names("model"):
        cls = registry.load("model", name)
        if not cls.__module__.startswith("recgraph."):  # registered by another test
            continue
        text = text_of(cls)
        assert text.summary.endswith("."), name
        assert text.source or name == "popularity", f"{name}: say whose model it is"


def test_a_sheet_does_not_change_with_what_is_asked_of_it(board: Board) -> None:
    sheet = opened(board)
    assert sheet.numbers
    assert replace(sheet) == sheet == opened(board)
    assert sheet.frame.equals(opened(board).frame)


def test_a_metric_that_was_asked_for_later_is_missing(tmp_path: Path) -> None:
    """The column is there once a record has it; those that lack it are to be run again, as the runner has it."""
    before = write_board(tmp_path, BOARD.replace("[training]", "[training]\n"))
    fill(before)
    for metrics, shown in (('"novelty@10", "ndcg@10"', ("ndcg@10",)), ('"novelty@10"', None)):
        board = write_board(tmp_path, BOARD.replace('"ndcg@10", "recall@10"', metrics))
        sheet = open_sheet(board, board.sheets[0])
        assert [table.metrics for table in sheet.tables] == ([] if shown is None else [shown] * 2)
        reasons = {missing.entry: missing.reason for missing in sheet.missing}
        assert reasons["LightGCN"] == "without novelty@10, to be run again"
        assert reasons["BPRMF"] == "not run"
        assert (sheet.n_done, sheet.n_asked) == (0, 10)
