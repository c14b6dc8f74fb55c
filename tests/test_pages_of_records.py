"""Tables that people wrote say what the boards say (docs/leaderboard.md, which is written from the records)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
ITEM_GRAPHS = {
    "On MovieLens 100K": "MovieLens 100K, sequences and graphs of films in one model",
    "On Amazon Beauty": "Amazon Beauty, sequences and a graph of products in one model",
}
NODES = {
    "MEOW, ACM, ties by cosine": ("ACM: three classes of papers", "MEOW"),
    "the same, 100 epochs": ("ACM: three classes of papers", "MEOW, 100 epochs"),
    "MEOW, ACM, ties by index (seed 0)": ("ACM: three classes of papers", "MEOW, ties by index"),
    "AdaMEOW, ACM, ties by cosine": ("ACM: three classes of papers", "AdaMEOW"),
    "HeCo, ACM, authors one-hot, ties at random": ("ACM: three classes of papers", "HeCo"),
    "MEOW, DBLP, full counts": ("DBLP: four classes of authors", "MEOW"),
    "MEOW, DBLP in a random order, ties at random": ("DBLP, nodes in a random order", "MEOW, ties at random"),
    "HeCo, DBLP in a random order, papers one-hot": ("DBLP, nodes in a random order", "HeCo"),
    "MEOW, AMiner in a random order": ("AMiner, nodes in a random order", "MEOW"),
    "HeCo, AMiner in a random order, rows at coordinates (seed 0)": ("AMiner, nodes in a random order", "HeCo"),
    "HeCo, AMiner in a random order, drawn rows (2 seeds)": ("AMiner, nodes in a random order", "HeCo, drawn rows"),
    "MEOW, IMDB, ties by cosine": ("IMDB: three classes of movies", "MEOW"),
    "MEOW, IMDB, ties by index": ("IMDB: three classes of movies", "MEOW, ties by index"),
}
FILMS = {
    "SLIM": "SLIM",
    "BPR-MF": "BPRMF",
    "LightGCN": "LightGCN",
    "SASRec, full softmax": "SASRec",
    "SASRec, sampled softmax": "SASRec, sampled softmax",
    "eSASRec": "eSASRec",
    "BSARec, causal filter": "BSARec",
    "GRU4Rec": "GRU4Rec",
    "MCLRec": "MCLRec",
}
VIEWS = {
    "lastfm-hin": "Last.fm, with friends and tags",
    "yelp-hin": "Yelp, with friends, cities and categories",
    "ml-100k": "MovieLens-100k, with genres, gender and occupation",
}


def section(title: str) -> str:
    """A data set's part of the page of all boards."""
    text = (DOCS / "leaderboard.md").read_text("utf-8")
    return text.partition(f"\n### {title}\n")[2].partition("\n### ")[0].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:2] == "| "]


def scores(title: str) -> dict[str, list[list[str]]]:
    """Entry -> the cells of its rows behind the number of seeds, such as ``0.0576 ± 0.0004``, without marks."""
    found: dict[str, list[list[str]]] = {}
    for label, *cells in rows(section(title)):
        if len(cells) > 1 and cells[0].isdigit() and re.match(r"\d\.\d{4}", cells[1]):
            found.setdefault(label, []).append([cell.rstrip(" ★≈?") for cell in cells[1:]])
    return found


def short(number: str) -> str:
    """``+0.0069`` -> ``+.0069``."""
    return re.sub(r"\b0\.", ".", number)


@pytest.mark.parametrize("where", ITEM_GRAPHS)
def test_the_page_of_item_graphs(where: str) -> None:
    board = scores(ITEM_GRAPHS[where])
    text = (DOCS / "item-graphs.md").read_text("utf-8").partition(where)[2]
    head, *table = rows(text.partition("| model")[1] + text.partition("| model")[2].partition("\n\n")[0])
    assert len(table) > 3
    for label, *cells in table[1:]:
        entry = max((name for name in board if label.startswith(name)), key=len)
        said = dict(zip(head[1:], cells, strict=True))
        (measured,) = board[entry][:1]
        mean = [short(cell.split(" ")[0]) for cell in measured]
        assert (said["NDCG@10"], said["Recall@10"]) == (mean[0], mean[1]), label
        assert said.get("NDCG@10, seen kept", mean[3]) == mean[3], label


def test_the_page_of_nodes() -> None:
    said = {label: cells for label, *cells in rows((DOCS / "node-task.md").read_text("utf-8"))}
    for label, (title, entry) in NODES.items():
        for cell, (macro_f1, *_) in zip(said[label], scores(title)[entry][:3], strict=False):
            shown = [f"{float(number) * 100:.2f}" for number in macro_f1.split(" ± ")]
            assert cell.split(" ± ") == shown[: 2 if "±" in cell else 1], label


def test_the_page_of_baselines() -> None:
    text = (DOCS / "baselines.md").read_text("utf-8").partition("## MovieLens-100k, leave-one-out by time")[2]
    said = {cells[0]: cells[3] for cells in rows(text)}
    board = scores("MovieLens-100k, the next film")
    for label, entry in FILMS.items():
        ndcg, recall = (short(cell.split(" ")[0]) for cell in board[entry][0][:2])
        assert said[label] == f"{recall} / {ndcg}"


def test_what_the_views_add() -> None:
    text = (DOCS / "graph-recommenders.md").read_text("utf-8").partition("## What the views add")[2]
    said = {cells[0].strip("`").partition("`")[0]: cells[1:] for cells in rows(text.partition("## ")[0])}
    for data, title in VIEWS.items():
        compared = {
            cells[0]: cells[5:8]
            for cells in rows(section(title))
            if cells[1:4] == ["ndcg@20", "MEOW less LightGCN", "users"]
        }
        means = scores(title)
        for column, first in (("seen excluded", 0), ("seen kept", 3)):
            difference, p = said[data][:2] if first == 0 else said[data][2:]
            if column in compared:
                gain, interval, p_value = map(short, compared[column])
                assert (difference, p) == (f"{gain} {interval.replace('+', '')}", p_value), data
            else:
                meow, lightgcn = (float(means[entry][0][first].split(" ")[0]) for entry in ("MEOW", "LightGCN"))
                assert (difference, p) == (short(f"{meow - lightgcn:+.4f}"), ""), data
