"""Data cards: what is refused, how they are found, and that the library's own are complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from refusing import refused

from recgraph.config import ConfigError
from recgraph.data.catalog.cards import Card, UnknownDatasetError, card_files, find_card

ROOT = Path(__file__).resolve().parents[2]
OF_NODES = ["acm", "aminer", "dblp", "imdb"]
GRAPHS = [*OF_NODES, *(f"{name}-permuted" for name in OF_NODES), "lastfm-hin", "yelp-hin"]
NAMES = ["amazon-beauty", "amazon-sports", "amazon-toys", "gowalla"]
NAMES += ["ml-100k", "ml-1m", "ml-1m-ordered", "synthetic", "yelp"]
MINIMAL = """
name = "mine"
title = "Mine"
description = "d"
licence = "l"
citation = "c"
acknowledgement = "a"

[expected]
users = 2
items = 3
interactions = 4

[[sources]]
kind = "local"
file = "log.txt"

[sources.files.interactions]
format = "sequences"
"""


def _card(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_own_cards_state_what_a_user_must_know(name: str) -> None:
    card = find_card(name)
    assert all(len(text) > 20 for text in (card.description, card.licence, card.citation, card.acknowledgement))
    for source in card.sources:
        if source.kind in ("url", "wheel"):
            assert source.sha256


def test_movielens_asks_for_its_citation() -> None:
    for name in ("ml-100k", "ml-1m"):
        card = find_card(name)
        assert "10.1145/2827872" in card.citation
        assert "10.1145/2827872" in card.acknowledgement
        assert "redistribut" in card.acknowledgement


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Mine"', 'titel = "Mine"', "did you mean title"),
        ("users = 2", "users = 0", "expected.users = 0"),
        ("users = 2", "users = 2\nuser = 1", "unknown setting 'expected.user'"),
        ('kind = "local"', 'kind = "ftp"', "sources.0"),
        ('format = "sequences"', 'format = "parquet"', "layout.interactions is missing"),
        ("[sources.files.interactions]", "[sources.files.items]", "files.interactions"),
        ('file = "log.txt"', 'file = "log.txt"\nsha256 = "abc"', "sha256"),
        ('name = "mine"', 'name = "yours"', "must be 'mine'"),
        ('kind = "local"\nfile = "log.txt"', 'kind = "url"\nurl = "https://example.org/a.zip"', "sha256"),
    ],
)
def test_a_wrong_card_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MINIMAL
    path = _card(tmp_path, MINIMAL.replace(old, new))
    with pytest.raises(ConfigError) as raised:
        Card.load(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_broken_file_names_itself(tmp_path: Path) -> None:
    with refused("mine.toml", by=ConfigError):
        Card.load(_card(tmp_path, "name = "))


def test_hash_follows_the_data_and_not_the_texts(tmp_path: Path) -> None:
    first = Card.load(_card(tmp_path, MINIMAL)).hash
    assert Card.load(_card(tmp_path, MINIMAL.replace('licence = "l"', 'licence = "other"'))).hash == first
    assert Card.load(_card(tmp_path, MINIMAL.replace("users = 2", "users = 1"))).hash != first


HASHES = {
    "acm": "741b4c4845661471",
    "amazon-beauty": "ef04d7d5dee98260",
    "amazon-sports": "87c91ed5fcf4f5c3",
    "amazon-toys": "36c7e4e2f8e0c964",
    "aminer": "c7897f6da02478dc",
    "dblp": "89a5e311bafab90d",
    "imdb": "005cc47f3ae8bc0d",
    "lastfm-hin": "c05a3dd6e2bd5516",
    "ml-100k": "c96492e7f0ef76ec",
    "ml-1m": "d4e7da649cb01b34",
    "ml-1m-ordered": "ebc279b2bc5483c7",
    "synthetic": "7546488168c604f2",
    "yelp": "bbd5ff2ff9e6cd8f",
    "yelp-hin": "4f070c916c066d7f",
}


def test_hashes_of_own_cards_stay() -> None:
    """They are part of the addresses of committed records, and of what users have prepared."""
    assert {name: find_card(name).hash[:16] for name in HASHES} == HASHES


def test_unknown_name_lists_names_and_near_ones() -> None:
    with pytest.raises(UnknownDatasetError) as raised:
        find_card("ML100K")
    assert "'ML100K'" in str(raised.value)
    assert "did you mean ml-100k" in str(raised.value)
    assert all(name in str(raised.value) for name in NAMES)


def test_own_cards_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _card(tmp_path, MINIMAL)
    assert find_card(str(path)).title == "Mine"
    monkeypatch.setenv("RECGRAPH_CARDS", str(tmp_path))
    assert set(card_files()) == {*NAMES, *GRAPHS, "mine"}
    assert find_card("mine").title == "Mine"
    _card(tmp_path, MINIMAL.replace('name = "mine"', 'name = "yelp"'), "yelp")
    assert find_card("yelp").title == "Mine", "a user's card comes first"
    monkeypatch.setenv("RECGRAPH_CARDS", str(tmp_path / "absent"))
    with refused("absent", by=ConfigError):
        card_files()


_LIST = (
    "from recgraph.data.catalog.cards import card_files; "
    "print(*(f'{n}={p}' for n, p in card_files().items()), sep='\\n')"
)


def _found_in(where: Path, cwd: Path) -> dict[str, Path]:
    """The cards that the library at a place finds."""
    environment = {**os.environ, "PYTHONPATH": str(where)}
    command = [sys.executable, "-c", _LIST]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return {name: Path(path) for name, _, path in (line.partition("=") for line in done.stdout.splitlines())}


def test_cards_are_found_in_a_checkout(tmp_path: Path) -> None:
    found = _found_in(ROOT, tmp_path)
    assert list(found) == sorted([*NAMES, *GRAPHS])
    assert {path.parent.name for path in found.values()} == {"datasets"}


@pytest.mark.slow
def test_cards_are_found_in_a_wheel(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    without_caches = shutil.ignore_patterns("__pycache__")
    for name in ("recgraph", "datasets"):
        shutil.copytree(ROOT / name, source / name, ignore=without_caches)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path]
    subprocess.run([*command, source], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        entries = wheel.namelist()
        wheel.extractall(site)
    assert "recgraph/py.typed" in entries
    assert {entry.split("/")[0] for entry in entries if ".dist-info" not in entry} == {"recgraph"}
    found = _found_in(site, tmp_path)
    assert list(found) == sorted([*NAMES, *GRAPHS])
    assert {path.parent for path in found.values()} == {site / "recgraph" / "catalog"}
