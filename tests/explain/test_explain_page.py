"""The page and the map: what they show, that they need nothing from elsewhere, and what a browser says of them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import polars as pl
import pytest
import torch
from small_recommender import SETTINGS, recommender

import recgraph as rg
from recgraph.data.ids import IdMap
from recgraph.explain import projection
from recgraph.explain.projection import Grouping, ItemMap, _relation_groupings
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.recommender import Recommender


@pytest.fixture(scope="module")
def whole() -> Recommender:
    return recommender(**SETTINGS)


@pytest.fixture(scope="module")
def drawn(whole: Recommender) -> ItemMap:
    return rg.explain.item_map(whole, keep=["A"])


@pytest.fixture(scope="module")
def page_file(whole: Recommender, drawn: ItemMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = rg.explain.explain(whole, "ann", k=3)
    return rg.explain.write_page(found, tmp_path_factory.mktemp("page") / "why.html", drawn)


def test_the_map_is_that_of_the_principal_components(whole: Recommender, drawn: ItemMap) -> None:
    units = torch.nn.functional.normalize(whole.model.encode_items().detach().double(), dim=1)
    centred = units - units.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    wanted = centred @ vectors[:, [-1, -2]]
    places = torch.tensor([[point.x, point.y] for point in drawn.points], dtype=torch.float64)
    torch.testing.assert_close(places.abs(), wanted.abs(), rtol=1e-5, atol=1e-7)
    assert drawn.variance == pytest.approx((values[[-1, -2]] / values.sum()).tolist())
    assert drawn == rg.explain.item_map(whole, keep=["A"])
    assert [point.node.title for point in drawn.points] == ["Alien", "Brazil", "Cube", "D", "E"]


def test_colours(drawn: ItemMap) -> None:
    """tense and sf are each had by three; the genre of the graph and the column of the features."""
    assert drawn.feature == "genres"
    assert set(drawn.groups) == {"sf", "tense"}
    group = {point.node.id: drawn.groups[point.group] if point.group >= 0 else None for point in drawn.points}
    assert (group["A"], group["D"], group["E"]) == ("sf", None, "tense")
    assert rg.explain.item_map(recommender(**SETTINGS), color="genre").feature == "genre"
    with pytest.raises(ValueError, match=r"color = 'year' is no feature .* there are 'genres', 'genre'"):
        rg.explain.item_map(recommender(**SETTINGS), color="year")


def test_the_map_counts_what_it_shows(whole: Recommender) -> None:
    """Ann had A and B, of which a map of three points may leave out one."""
    found = rg.explain.explain(whole, "ann", k=3)
    for limit, keep in ((3000, []), (3, ["C", "D", "E"]), (3, ["A", "B", "C"])):
        text = rg.explain.page(found, rg.explain.item_map(whole, limit=limit, keep=keep))
        counts = re.search(r"; (\d+) are marked, (\d+) have a ring", text)
        assert counts is not None
        assert [int(each) for each in counts.groups()] == [text.count('class="marked"'), text.count('class="ringed')]


def test_titles_of_related_nodes_are_read_at_once(whole: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    ids = IdMap.ids
    monkeypatch.setattr(IdMap, "ids", lambda self, indices: (asked.append(len(indices)), ids(self, indices))[1])
    space = whole.model.space
    assert isinstance(space, GraphSpace)
    (genres,) = _relation_groupings(space.graph, "item")
    assert genres.titles == ("sf", "tense")
    assert asked == [2]


def test_of_several_values_the_rarest() -> None:
    import numpy as np

    nodes, values = np.array([0, 0, 1, 2, 2, 3]), np.array([0, 1, 0, 0, 2, 1])
    grouping = Grouping("genre", nodes, values, ("drama", "war", "noir"))
    assert grouping.colours(5) == (("drama", "war", "noir"), [1, 0, 2, 1, -1])
    assert grouping.coverage(5) == 4 / 5


@pytest.mark.parametrize("vector", [[0.5] * 4, [0.1, 0.2, 0.3]], ids=["exact", "rounded"])
def test_a_map_of_equal_vectors_is_one_point_without_variance(
    vector: list[float], whole: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as those of a model that has learnt nothing; t-SNE would end the process."""
    vectors = torch.tensor([vector]).repeat(5, 1)
    monkeypatch.setattr(projection, "item_vectors_of", lambda _: vectors)
    for method in ("pca", "tsne"):
        found = rg.explain.item_map(whole, method=method)  # type: ignore[arg-type]
        assert {(point.x, point.y) for point in found.points} == {(0.0, 0.0)}
        assert found.variance is None
        text = rg.explain.page(rg.explain.explain(whole, "ann", k=3), found)
        assert "All embeddings that are drawn are the same at unit length" in text
        assert "nan" not in text.partition("<svg")[2]


def test_tsne_and_limits(whole: Recommender) -> None:
    found = rg.explain.item_map(whole, method="tsne", seed=1)
    assert found.variance is None
    assert found == rg.explain.item_map(whole, method="tsne", seed=1)
    some = rg.explain.item_map(whole, limit=3, keep=["E"])
    assert some == rg.explain.item_map(whole, limit=3, keep=["E", "nobody's", "E"])
    # E must be shown; A, B and C were had twice, D once
    assert [point.node.id for point in some.points] == ["A", "B", "E"]
    assert some.n_vectors == 5
    for settings, message in (
        ({"method": "umap"}, "method = 'umap' must be 'pca' or 'tsne'"),
        ({"limit": 2}, "limit = 2 must be at least 3"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            rg.explain.item_map(whole, **settings)  # type: ignore[arg-type]


def test_the_page_needs_nothing_from_elsewhere(page_file: Path) -> None:
    text = page_file.read_text()
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|<iframe|@import|url\(|\b(src|href)=", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<details") == 3
    for words in ("Cube", "user ann → Brazil → sf → Cube", "item-genre-item", "own vectors"):
        assert words in text
    (svg,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    drawing = ElementTree.fromstring(svg)
    assert drawing.get("aria-label") == (
        "Map of 5 embeddings in two dimensions, coloured by genres; 3 are marked, 2 have a ring"
    )
    kinds = [circle.get("class", "").split()[0] for circle in drawing.iter("circle")]
    assert sorted(kinds) == ["marked"] * 3 + ["ringed"] * 2


def test_names_are_escaped() -> None:
    found = recommender(**SETTINGS)
    bad = "<script>alert(1)</script>"
    found.item_features = pl.DataFrame({"item": ["A", "C"], "title": [bad, bad]})
    text = rg.explain.page(rg.explain.explain(found, "ann"), rg.explain.item_map(found))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.fixture
def opened(page_file: Path, chromium: browser.Chromium, request: pytest.FixtureRequest) -> Iterator[Any]:
    with chromium.opened(page_file, **request.param) as page:
        yield page


@pytest.mark.parametrize(
    "opened",
    [{"dark": False}, {"dark": True, "width": 390}],
    indirect=True,
    ids=["light, a desk", "dark, a phone"],
)
def test_in_a_browser(opened: Any) -> None:
    """Silent, alone, nothing that axe finds, nothing wider than the window; all opened."""
    for summary in opened.query_selector_all("details:not([open]) summary"):
        summary.click()
    assert opened.locator("details[open]").count() == 3
    assert browser.violations(opened) == []
    wide, window = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window


@pytest.mark.parametrize("opened", [{}], indirect=True)
def test_the_map_shows_one_value_alone_by_keyboard(opened: Any) -> None:
    faded = "document.querySelectorAll('circle.ringed').length"
    assert opened.evaluate(faded) == 2
    opened.locator("#only").focus()
    opened.keyboard.press("ArrowDown")
    chosen = opened.evaluate("document.querySelector('input[name=only]:checked').id")
    assert chosen == "only0"
    shown = (
        "[...document.querySelectorAll('circle.ringed')].map(c => [c.classList[1], getComputedStyle(c).fillOpacity])"
    )
    for name, opacity in opened.evaluate(shown):
        assert float(opacity) == (1 if name == "g0" else pytest.approx(0.07))
