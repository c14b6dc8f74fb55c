"""The mutator is deterministic and changes what it is given; the campaign counts errors, hangs, memory and ends."""

from __future__ import annotations

import json
import os
import random
import struct
import time
from pathlib import Path

import campaign
import mutator


def test_a_seed_gives_the_same_changes() -> None:
    data = bytes(range(256)) * 4
    made = [[mutator.mutate_bytes(data, random.Random(seed), [b"other"]) for seed in range(200)] for _ in range(2)]
    assert made[0] == made[1]
    assert sum(one != data for one in made[0]) > 190


def test_json_is_changed_and_stays_json() -> None:
    value = {"a": [1, 2, {"b": "c"}], "d": None}
    made = [json.dumps(mutator.mutate_json(value, random.Random(seed))) for seed in range(200)]
    assert len({*made}) > 50
    assert json.loads(made[0]) is not value


def test_a_header_of_tensors_keeps_its_length() -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(8)
    for seed in range(50):
        made = mutator.mutate_tensors(data, random.Random(seed))
        json.loads(made[8 : 8 + int.from_bytes(made[:8], "little")])


def _write(folder: Path) -> None:
    (folder / "number.txt").write_text("0")


def _change(folder: Path, rng: random.Random) -> None:
    (folder / "number.txt").write_text(f"{int(rng.random() * 6)}")


def _read(folder: Path) -> None:
    number = int((folder / "number.txt").read_text())
    if number == 1:
        raise ValueError(f"{folder / 'number.txt'}: 1")
    if number == 2:
        raise ValueError("no file")
    if number == 3:
        raise KeyError("3")
    if number == 4:
        time.sleep(60)
    if number == 5:
        os.abort()


TARGET = campaign.Target(_write, _read, (ValueError,), _change)


def test_a_campaign_tells_the_ways_to_fail_apart(monkeypatch) -> None:
    monkeypatch.setattr(campaign, "SECONDS", 0.5)
    monkeypatch.setattr(campaign, "SLOWER", 2)
    report = campaign.campaign("test_fuzz_mutator", 24)
    assert sum(report.counts.values()) == 24
    assert report.counts["read"]
    assert report.counts["ValueError"]
    reasons = " ".join(report.failures.values())
    for what in ("names no file", "KeyError", "took more than", "the process ended with -6"):
        assert what in reasons
