"""Parts that are given: against a slow version, what is counted, their draw, their seal, cards and
protocols.
"""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from refusing import refused

import recgraph as rg
from recgraph.data import catalog
from recgraph.data.split import SealedSplit, SealedTestError
from recgraph.train.settings import DataConfig

Rows = list[tuple[int, int]]


def _rows(n: int, n_users: int, n_items: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return list(
        zip(rng.integers(0, n_users, n).tolist(), rng.integers(0, n_items, n).tolist(), strict=True)
    )


# later parts have users and items of their own, and pairs of earlier ones
TRAIN, VALID, TEST = _rows(60, 8, 12, 0), _rows(20, 9, 14, 1), _rows(25, 10, 17, 2)


def _frame(rows: Rows, **more: Any) -> pl.DataFrame:
    return pl.DataFrame(
        {"user_id": [user for user, _ in rows], "item_id": [item for _, item in rows], **more}
    )


def _cases(split: rg.Split, part: str) -> dict[int, tuple[list[int], list[int]]]:
    cases = getattr(split, part)
    users = split.users.ids(cases.users.numpy()).to_list()

    def ids(rows: list[list[int]]) -> list[list[int]]:
        return [split.items.ids(np.array(row, dtype=np.int64)).to_list() for row in rows]

    lists = zip(ids(cases.history.to_lists()), ids(cases.truth.to_lists()), strict=True)
    return dict(zip(users, lists, strict=True))


def _slow(before: list[Rows], asked: Rows, keep: bool) -> dict[int, tuple[list[int], list[int]]]:
    past = list(itertools.chain(*before))
    known = {item for _, item in past}
    found = {}
    for user in sorted({user for user, _ in past}):
        history = [item for one, item in past if one == user]
        truth = [item for one, item in asked if one == user and (keep or item in known)]
        if truth:
            found[user] = (history, truth)
    return found


@pytest.mark.parametrize("unknown_items", ["drop", "keep"])
def test_parts_against_a_slow_version(unknown_items: str) -> None:
    given = {"unknown_items": unknown_items}
    split = rg.Split.from_parts(_frame(TRAIN), _frame(VALID), _frame(TEST), split=given)
    keep = unknown_items == "keep"
    assert _cases(split, "valid") == _slow([TRAIN], VALID, keep)
    assert _cases(split, "test") == _slow([TRAIN, VALID], TEST, keep)
    assert split.train.n_interactions == len(TRAIN)
    assert split.fit_part("train+valid").n_interactions == len(TRAIN) + len(VALID)
    assert split.fit_part("all").n_interactions == len(TRAIN) + len(VALID) + len(TEST)
    assert split.seed is None
    first, second = set(TRAIN), {*TRAIN, *VALID}
    users, items = {user for user, _ in TRAIN}, {item for _, item in TRAIN}
    later = ({user for user, _ in second}, {item for _, item in second})
    assert split.params["found"] == {
        "train": len(TRAIN),
        "valid": len(VALID),
        "valid_repeats": sum(pair in first for pair in VALID),
        "valid_unknown_users": sum(user not in users for user, _ in VALID),
        "valid_unknown_items": sum(item not in items for _, item in VALID),
        "test": len(TEST),
        "test_repeats": sum(pair in second for pair in TEST),
        "test_unknown_users": sum(user not in later[0] for user, _ in TEST),
        "test_unknown_items": sum(item not in later[1] for _, item in TEST),
    }
    assert min(split.params["found"].values()) > 0


def test_files_and_frames_give_one_split_wherever_they_are_named(tmp_path: Path) -> None:
    frames = [_frame(rows) for rows in (TRAIN, VALID, TEST)]
    paths = [tmp_path / f"{name}.csv" for name in ("train", "valid", "test")]
    for frame, path in zip(frames, paths, strict=True):
        frame.write_csv(path)
    split = rg.Split.from_parts(*paths)
    assert split.hash == rg.Split.from_parts(*frames).hash
    assert split.interactions.files is not None
    reading = {"valid": str(paths[1]), "test": str(paths[2])}
    assert DataConfig.of(reading=reading).split_of(str(paths[0])).hash == split.hash
    lines = []
    for name, rows in (("a", TRAIN), ("b", VALID), ("c", TEST)):
        users = sorted({user for user, _ in rows}, key=[user for user, _ in rows].index)
        texts = [
            f"{user} {' '.join(str(item) for one, item in rows if one == user)}" for user in users
        ]
        lines.append(tmp_path / f"{name}.txt")
        lines[-1].write_text("\n".join(texts) + "\n")
    by_lines = rg.Split.from_parts(*lines, format="sequences")
    assert _cases(by_lines, "test") == _cases(split, "test")
    other = rg.Split.from_parts(frames[0], frames[1], _frame(TEST[:-1]))
    assert other.hash != split.hash


SEVEN = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (1, 4)]


def test_a_validation_part_is_drawn_from_train_alone() -> None:
    parts = (_frame(TRAIN), None, _frame(TEST))
    splits = [rg.Split.from_parts(*parts, seed=seed, split={"valid": 0.3}) for seed in (0, 0, 1)]
    assert splits[0].hash == splits[1].hash != splits[2].hash
    assert [split.seed for split in splits] == [0, 0, 1]
    assert _cases(splits[0], "test").keys() == _cases(splits[2], "test").keys()
    for split in splits:
        lengths = {user: sum(one == user for one, _ in TRAIN) for user, _ in TRAIN}
        n_valid = sum(max(int(0.3 * length), int(length >= 2)) for length in lengths.values())
        assert split.params["found"]["valid"] == n_valid
        assert split.train.n_interactions == len(TRAIN) - n_valid
        assert split.fit_part("train+valid").n_interactions == len(TRAIN)
    assert rg.Split.from_parts(*parts).params["valid"] == 0.1
    latest = rg.Split.from_parts(
        *parts, split={"valid": 0.3, "order": "time", "unknown_items": "keep"}
    )
    assert latest.seed is None
    for user, (history, truth) in _cases(latest, "valid").items():
        assert history + truth == [item for one, item in TRAIN if one == user]
    none = rg.Split.from_parts(*parts, split={"valid": 0})
    assert len(none.valid) == 0
    assert none.train.n_interactions == len(TRAIN)


def test_the_test_part_is_sealed_and_a_saved_split_is_the_same(tmp_path: Path) -> None:
    split = rg.Split.from_parts(_frame(TRAIN), _frame(VALID), _frame(TEST))
    sealed = split.sealed()
    assert len(sealed.interactions) == len(TRAIN) + len(VALID)
    with pytest.raises(SealedTestError):
        _ = sealed.test
    split.save(tmp_path / "split")
    loaded = SealedSplit.load(tmp_path / "split")
    assert (loaded.params, len(loaded.interactions)) == (split.params, len(sealed.interactions))
    assert loaded.unseal("compare").hash == split.hash
    split.sealed().save(tmp_path / "open")
    with refused("test part", by=SealedTestError):
        SealedSplit.load(tmp_path / "open").unseal("try")


def test_cards_name_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    for name, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        _frame(rows).write_csv(tmp_path / f"{name}.tsv", separator="\t", include_header=False)
        _frame(rows).write_csv(tmp_path / f"{name}.csv")
    digest = rg.Split.from_parts(_frame(TRAIN), _frame(VALID), _frame(TEST)).hash
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "own"\n[data]\ntrain = "train.csv"\nvalid = "valid.csv"\ntest = "test.csv"\n'
    )
    assert DataConfig.of().split_of(str(own)).hash == digest
    files = "".join(
        f'[sources.files.{table}]\nformat = "delimited"\n{member}'
        for table, member in (
            ("interactions", ""),
            ("valid", 'member = "valid.tsv"\n'),
            ("test", 'member = "test.tsv"\n'),
        )
    )
    texts = "".join(
        f'{name} = "-"\n'
        for name in ("title", "description", "licence", "citation", "acknowledgement")
    )
    layout = '[layout.interactions]\ncolumns = { user_id = "int", item_id = "int" }\n'
    published = tmp_path / "published.toml"
    published.write_text(
        f'name = "published"\n{texts}{layout}[[sources]]\nkind = "local"\nfile = "train.tsv"\n{files}',
        encoding="utf-8",
    )
    catalog.get(str(published), from_path=tmp_path / "train.tsv")
    assert DataConfig.of().split_of(str(published)).hash == digest
    # another strategy takes the log as one
    assert DataConfig.of(split="ratio").split_of(str(published)).name == "ratio"


def test_what_is_no_set_of_parts_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.csv").write_text("user_id,item_id,rating\n1,10,5\n2,11,4\n")
    (tmp_path / "train" / "b.csv").write_text("user_id,item_id,rating\n1,11,3\n,12,2\n")
    (tmp_path / "test.csv").write_text("user_id,item_id,rating\n2,10,1\n1,12,bad\n")
    for given in (tmp_path / "train", tmp_path / "train" / "*.csv"):
        with refused("b.csv", "row 1", "user_id"):
            rg.Split.from_parts(given, test=tmp_path / "test.csv")
        with refused("test.csv", "row 1", "rating", "'bad'"):
            rg.Split.from_parts(given, test=tmp_path / "test.csv", missing_ids="drop")
    with refused("train"):
        rg.Split.from_parts(_frame(TRAIN))
    with refused("train", "test"):
        rg.Split.from_parts(_frame(TRAIN), test=tmp_path / "test.csv")
    days = [dt.datetime(2024, 5, day, 12) for day in range(1, 8)]
    for times in ([1, 2, 3, 4, 5, 6, 7], [1.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0]):
        with refused("timestamp"):
            rg.Split.from_parts(_frame(SEVEN, timestamp=days), test=_frame(SEVEN, timestamp=times))
    rg.Split.from_parts(
        _frame([(1, 1), (1, 2), (2, 1)]), _frame([(2, 2)]), _frame([(1, 1), (9, 2), (2, 7)])
    )
    assert "test_repeats = 1, test_unknown_users = 1, test_unknown_items = 1" in caplog.text
