"""Cards and archives that a stranger made: paths, addresses, redirects and sizes."""

from __future__ import annotations

import http.server
import ssl
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from recgraph.bounded import archives
from recgraph.bounded.files import sha256_of
from recgraph.config import ConfigError
from recgraph.data import catalog
from recgraph.data.catalog.cards import Card
from recgraph.data.catalog.sources import UnavailableError
from recgraph.data.errors import CorruptFileError

CERTIFICATE = Path(__file__).parent / "localhost.pem"
HEAD = """
name = "mine"
title = "t"
description = "d"
licence = "l"
citation = "c"
acknowledgement = "a"
"""
LOG = "7 3 1 3\n8 2 1\n"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))


def _card(folder: Path, *given: str) -> str:
    path = folder / "mine.toml"
    path.write_text(HEAD + "".join(f"\n[[sources]]\n{source}\n" for source in given), encoding="utf-8")
    return str(path)


def _source(url: str, path: Path, file: str = "", more: str = "") -> str:
    hash_of = sha256_of(path) if path.is_file() else "0" * 64
    return (
        f'kind = "url"\nurl = "{url}"\nsha256 = "{hash_of}"\n{more}'
        f'[sources.files.interactions]\nformat = "sequences"\n{file}'
    )


class Answers(http.server.BaseHTTPRequestHandler):
    """Serves files of a folder, redirects, and a stream that does not end."""

    folder = Path()
    asked: list[str]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            if self.path == "/endless":
                while True:
                    self.wfile.write(bytes(1 << 16))
            self.wfile.write((self.folder / self.path[1:]).read_bytes())
        except (OSError, ssl.SSLError):
            pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that were asked for, of it and of one without encryption on the same machine."""
    asked: list[str] = []
    handler = type("Own", (Answers,), {"folder": tmp_path, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://example.org/a", "ftp://example.org/a", "https://", "https:///a", "//x/a", "a"]
)
def test_only_https_is_an_address(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="url"):
        Card.load(_card(tmp_path, _source(url, tmp_path)))


@pytest.mark.parametrize(
    "url", ["https://[", "https://.example", "https://" + "a" * 300 + ".org", "https://x:y/", "https://%"]
)
def test_an_odd_address_is_a_reason_and_the_next_source_is_tried(
    url: str, tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    (tmp_path / "log").write_text(LOG)
    good = _source(f"{server[0]}/log", tmp_path / "log")
    assert catalog.get(_card(tmp_path, _source(url, tmp_path), good)).source == f"{server[0]}/log"


def test_a_redirect_is_followed_to_https_alone(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    (tmp_path / "log").write_text(LOG)
    at, asked = server
    assert catalog.get(_card(tmp_path, _source(f"{at}/to/{at}/log", tmp_path / "log"))).counts["interactions"] == 5
    assert catalog.get(_card(tmp_path, _source(f"{at}/to//log", tmp_path / "log"))).counts["interactions"] == 5
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Plain", (Answers,), {"folder": tmp_path, "asked": asked})
    ) as plain:
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        asked.clear()
        for target in (f"http://127.0.0.1:{plain.server_port}/log?plain", "file:///etc/passwd", "ftp://x/y"):
            with pytest.raises(UnavailableError, match="only https is followed"):
                catalog.get(
                    _card(tmp_path, _source(f"{at}/to/{target}", tmp_path / "log", more="max_download = 9999\n"))
                )
        plain.shutdown()
    assert not [path for path in asked if path.startswith("/log")]


def test_a_download_is_broken_off(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    card = _card(tmp_path, _source(f"{server[0]}/endless", tmp_path, more="max_download = 3_000_000\n"))
    with pytest.raises(UnavailableError, match="serves more than 3,000,000 bytes"):
        catalog.get(card)


@pytest.mark.parametrize("member", ["../x", "/etc/passwd", "a/../../x", "C:\\\\x", "a\\\\b", ""])
def test_a_member_stays_in_its_folder(member: str, tmp_path: Path) -> None:
    card = _card(
        tmp_path,
        f'kind = "local"\nfile = "log"\n[sources.files.interactions]\nformat = "sequences"\nmember = "{member}"\n',
    )
    with pytest.raises(ConfigError, match="inside the folder"):
        Card.load(card)


def test_a_member_that_is_a_link_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(LOG)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "given").write_text("x")
    (tmp_path / "own" / "log").symlink_to("../outside")
    card = _card(
        tmp_path, 'kind = "local"\nfile = "log"\n[sources.files.interactions]\nformat = "sequences"\nmember = "log"\n'
    )
    with pytest.raises(ValueError, match="leads out of the folder"):
        catalog.get(card, from_path=tmp_path / "own" / "given")


GRAPH = """
task = "nodes"
[nodes.a]
count = 2
[nodes.b]
count = 2
features = "{0}"
[[edges]]
type = ["a", "to", "b"]
file = "{1}"
count = 1
[labels]
target = "a"
file = "{2}"
classes = 2
paths = []
[labels.splits]
one = ["x.npy", "x.npy", "{3}"]
[[sources]]
kind = "local"
folder = "{4}"
[files]
"f.npy" = "{5}"
"e.txt" = "{5}"
"l.npy" = "{5}"
"x.npy" = "{5}"
"../x" = "{5}"
"""


@pytest.mark.parametrize("place", range(5))
def test_the_files_of_a_graph_stay_in_its_folder(place: int, tmp_path: Path) -> None:
    names = ["f.npy", "e.txt", "l.npy", "x.npy", "published"]
    names[place] = "../x"
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + GRAPH.format(*names, "0" * 64))
    with pytest.raises(ConfigError, match="inside the folder"):
        Card.load(path)


def _zip(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log", content)
    return path


def test_archives_that_are_bombs_or_encrypted_are_reasons(
    tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FLOOR", 1 << 20)
    at, member = server[0], 'member = "log"\n'
    good = _zip(tmp_path / "good.zip", LOG.encode())
    bomb = _zip(tmp_path / "bomb.zip", b"1 2\n" * (1 << 19))
    locked = bytearray(good.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.index(mark) + place] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    card = _card(
        tmp_path,
        _source(f"{at}/bomb.zip", bomb, member),
        _source(f"{at}/locked.zip", tmp_path / "locked.zip", member),
        _source(f"{at}/good.zip", good, member),
    )
    assert catalog.get(card).source == f"{at}/good.zip"
    with pytest.raises(UnavailableError, match=r"has more than 1,048,576 bytes; a card allows more with max_bytes"):
        catalog.get(
            _card(tmp_path, _source(f"{at}/bomb.zip", bomb, member + "# other\n", more="max_download = 9999\n"))
        )
    raised = _card(tmp_path, _source(f"{at}/bomb.zip", bomb, member + "max_bytes = 4_000_000\n"))
    assert catalog.get(raised).counts["interactions"] == 1 << 19


def test_a_member_whose_name_is_no_text(tmp_path: Path) -> None:
    path = _zip(tmp_path / "log.zip", LOG.encode())
    data = bytearray(path.read_bytes())
    data[6:8] = (1 << 11).to_bytes(2, "little")  # of the member: its name is UTF-8
    data[30:33] = b"\x80\x80\x80"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="cannot be unpacked"):
        archives.unpack_member(path, "log", tmp_path / "out")
    assert not (tmp_path / "out").exists()
