"""What made-up records are rendered as; ``test_page_in_chromium.py`` opens the page."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess
import unicodedata
from pathlib import Path

import pytest
from made_up import jobs, opened, records_of
from markdown_it import MarkdownIt
from markupsafe import escape
from refusing import refused

import recgraph as rg
from recgraph.config import setting_text
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.page import cost_figures, curve_figures, page
from recgraph.leaderboard.sheet import update_comparisons
from recgraph.leaderboard.tables import for_markdown, metric_name
from recgraph.pages import for_terminal


def rendered(board: Board, suffix: str) -> str:
    return rg.leaderboard.render(board, board.folder / f"out.{suffix}").read_text(encoding="utf-8")


def test_csv_holds_every_number_of_the_records(board: Board) -> None:
    rows = list(csv.DictReader(io.StringIO(rendered(board, "csv"))))
    names = ("entry", "table", "group", "metric", "seed")
    found = {tuple(row[name] for name in names): row for row in rows}
    for name, own in jobs(board).items():
        for job in own:
            record = job.record
            for title, scores in (record or {"scores": {}})["scores"].items():
                for metric, value in scores.items():
                    row = found[name, title, "", metric, str(job.seed)]
                    assert (float(row["value"]), row["address"]) == (value, job.address)
                    assert row["mark"] in ("best", "tied", "worse")


def test_markdown_has_means_marks_and_differences(board: Board) -> None:
    text = rendered(board, "md")
    sheet = update_comparisons(opened(board))
    for name in ("LightGCN", "Popularity"):
        score = sheet.score(name, "seen excluded", "ndcg@10")
        assert score is not None
        row, *_ = re.findall(rf"^\| {name} \| \d \| (.*?) \|", text, re.MULTILINE)
        assert row == f"{score.text()} {score.sign}".rstrip()
    assert sheet.tested in text.replace("\\", "")
    assert "7 of 10 trainings are done" in text
    none = rg.leaderboard.render(board, board.folder / "none.md", results=board.folder / "none")
    assert "0 of 10 trainings are done" in none.read_text(encoding="utf-8")
    with refused("out", "out.pdf"):
        rg.leaderboard.render(board, "out.pdf")


def test_commands_can_be_pasted(board: Board, tmp_path: Path) -> None:
    """A shell that runs the text of a card calls recgraph with the arguments that are shown, and
    writes no file.
    """
    codes = re.findall(r"<code>(export .*?)</code>", rendered(board, "html"), re.DOTALL)
    blocks = [*map(html.unescape, dict.fromkeys(codes))]
    place = tmp_path / "place"
    place.mkdir()
    shell = 'recgraph() { printf "%s\\n" CALL "$@"; }\n'
    by_folder = {f"runs/{job.stem}": job for own in jobs(board).values() for job in own}
    assert len(blocks) == len(by_folder)
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euc", shell + block], capture_output=True, text=True, cwd=place, check=True
        )
        trained, evaluated = (
            part.split("\n") for part in done.stdout.rstrip("\n").split("CALL\n")[1:]
        )
        job = by_folder.pop(trained[trained.index("--out") + 1])
        assert trained[:2] == ["train", job.model]
        for name, value in job.settings.items():
            assert setting_text(name, value) in trained
        assert evaluated[:2] == ["evaluate", trained[trained.index("--out") + 1]]
        assert list(place.iterdir()) == []


def test_the_page(board: Board) -> None:
    """It needs nothing, has one thing an id, all numbers of each seed, and the commands that make
    them.
    """
    text = rendered(board, "html")
    assert not re.search(r"https?:|<img|<iframe|@import|url\(|\bsrc=", text)
    assert "default-src 'none'" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r' for="([^"]+)"', text)} <= set(ids)
    sheet = opened(board)
    assert escape(sheet.tested) in text
    for entry in sheet.entries:
        assert all(escape(entry.command(job)) in text for job in entry.jobs)
        assert all(f"{job.stem}.json" in text for job in entry.jobs if job.seed in entry.records)
        for table in sheet.tables:
            for score in sheet.scores(entry.name, table.title).values():
                assert all(f"{value:.6f}" in text for value in score.by_seed.values())
                assert all(
                    f"{versus.low:.4f} to {versus.high:.4f}" in text for versus in score.versus
                )
    (failure,) = [failure for *_, failure in sheet.lacking if failure]
    assert escape(failure["message"]) in text
    assert page([], board)


def test_figures(board: Board) -> None:
    """The front is drawn through what nothing beats; curves have a colour an entry and a line a
    seed.
    """
    sheet = opened(board)
    # LightGCN is best, Popularity trains faster, and all three take the same time to rank
    for figure, front in zip(
        cost_figures(sheet), (["LightGCN", "Popularity"], ["LightGCN"]), strict=True
    ):
        assert figure.svg.count("<circle") == 3
        assert re.findall(r'<circle class="front"[^>]*><title>(.*?):', figure.svg) == front
        assert figure.svg.count('class="whisker"') == 2
    (curves,) = curve_figures(sheet)
    assert {name for _, name in curves.key} == {"LightGCN", "LightGCN, three layers"}
    assert all(curves.svg.count(f'class="curve {kind}"') == 3 for kind, _ in curves.key)


NASTY = "<img src=x onerror=alert(1)> [a](http://x.y) `c` $x$ &lt; \x1b[31m \u202e | _b_ ~~s~~"


@pytest.mark.parametrize("suffix", ["md", "html"])
def test_texts_of_records_do_nothing(board: Board, suffix: str) -> None:
    for path in records_of(board).rglob("*-seed*.json"):
        record = json.loads(path.read_text())
        for part in (record, record["provenance"]):
            part |= {
                name: f"={part[name]} {NASTY}"
                for name in ("message", "machine", "commit")
                if name in part
            }
        path.write_text(json.dumps(record))
    text = rendered(board, suffix)
    assert "onerror" in text
    assert not {"\x1b", "\u202e"} & {*text}
    if suffix == "md":
        text = (
            MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
        )
    assert not re.search(r"<(img|a href=.http|s>|del>)", text)
    assert "&lt;img src=x" in text


def test_words() -> None:
    names = ("ndcg@10", "macro_f1", "hit_rate@5", "auc")
    assert [metric_name(name) for name in names] == ["NDCG@10", "Macro F1", "Hit rate@5", "AUC"]


HOSTILE = [
    *(
        "\x1b[31mred",
        "\x1b]0;title\x07",
        "\x9b2J",
        "a\rb",
        "a\x08b",
        "\u202ecod",
        "\u2066x\u2069",
        "\u2028",
        "\ufeff",
    ),
    *("<b>x</b>", "[a](http://x.y)", "`code`", "``", "a | b", "*a* _b_", "~~x~~", "&lt;", "a\nb"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_but_glyphs_goes_to_a_terminal(text: str) -> None:
    shown = for_terminal(text, lines=False)
    assert not {unicodedata.category(each) for each in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_scripts_and_emoji_stay() -> None:
    for text in ("naïve café", "नी", "می‌خواهم", "👩‍👩‍👧", "日本語\u3000本", "a\tb\nc", "\ue000"):
        assert for_terminal(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    rendered = parser.render(for_markdown(text)).removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in rendered
    assert html.unescape(rendered) == for_terminal(" ".join(text.split("\n")), lines=False).strip()
