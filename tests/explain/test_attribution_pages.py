"""Attributions in explanations: on the terminal, as JSON, in notebooks and on the page, all values escaped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
from attributed_models import GRAPHS, SEQUENCES, histories, model_of, recommender_of
from typer.testing import CliRunner, Result

import recgraph as rg
from recgraph.cli.app import app
from recgraph.explain.explanation import Explanation
from recgraph.explain.page import why_lines
from recgraph.serve.recommender import Recommender

ROWS = histories()
METHODS = ["leave_one_out", "attention"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ours"
    recommender_of(model_of("meowrec", ROWS, double=False, **GRAPHS["meowrec"]), ROWS).save(folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def found(run: Path) -> Explanation:
    return rg.explain.explain(run, "u4", k=2, attribution=METHODS)


def test_it_is_that_of_attribute(run: Path, found: Explanation) -> None:
    assert found.attributed == rg.explain.attribute(run, "u4", k=2, methods=METHODS)
    assert rg.explain.explain(run, "u4", k=2).attributed == ()


def test_the_command(run: Path, found: Explanation) -> None:
    done = call(
        "inspect", run, "--user", "u4", "-k", 2, "--attribution", "leave_one_out, attention", "--format", "json"
    )
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    table = call("inspect", run, "--user", "u4", "-k", 2, "-a", ",".join(METHODS), "--format", "table").stdout
    for line in why_lines(found):
        assert line in table
    assert found.attributed[0].sentence in table
    for words in ("Whether the methods agree", "Whether they are faithful", "random order"):
        assert words in table
    alone = call("inspect", run, "--user", "u4", "-k", 2, "-a", "leave_one_out", "--format", "table").stdout
    assert "Whether the methods agree" not in alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--user", "u4", "--attribution", "leave_one"),
            "attribution 'leave_one' does not exist; did you mean leave_one_out",
        ),
        (("--user", "u4", "--attribution", "attention,attention"), "attention stands there twice"),
        (("--node", 1, "--attribution", "attention"), "a node has none: leave it out"),
    ],
)
def test_mistakes_of_the_command(run: Path, arguments: tuple[object, ...], message: str) -> None:
    done = call("inspect", run, *arguments)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


def test_a_model_that_a_method_does_not_apply_to(tmp_path: Path) -> None:
    recommender_of(model_of("gru4rec", ROWS, double=False, **SEQUENCES["gru4rec"]), ROWS).save(tmp_path / "bundle")
    done = call("inspect", tmp_path, "--user", "u4", "--attribution", "attention", "--format", "json")
    assert (done.exit_code, "GRU has no attention" in done.stderr) == (2, True)


def test_the_page_has_the_numbers(found: Explanation) -> None:
    page = rg.explain.page(found)
    for each in found.attributed:
        assert each.sentence in page
        for row in each.rows(10):
            cells = [f'<td class="n">{row["place"]}</td><td class="title">{row["item"]}</td>']
            cells += [f'<td class="n">{row[method]:+.3f}</td>' for method in METHODS]
            assert all(cell in page for cell in cells)
    assert page.count('aria-label="Attribution of') == 2
    assert "random order" in page
    assert "Attributions" not in rg.explain.page(rg.explain.explain(_again(), "u4", k=1))


def _again() -> object:
    return recommender_of(model_of("sasrec", ROWS, double=False, **SEQUENCES["sasrec"]), ROWS)


def test_titles_are_escaped() -> None:
    model = model_of("sasrec", ROWS, double=False, **SEQUENCES["sasrec"])
    base = recommender_of(model, ROWS)
    title = "<script>alert(1)</script>"
    features = pl.DataFrame({"item": [f"i{n}" for n in range(30)], "title": [title] * 30})
    named = Recommender(model, base.users, base.items, base.seen, item_features=features)
    found = rg.explain.explain(named, "u4", k=1, attribution=METHODS)
    for html in (rg.explain.page(found), found.attributed[0]._repr_html_()):
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert" in html


def test_in_a_notebook(found: Explanation) -> None:
    html = found.attributed[0]._repr_html_()
    assert html.startswith('<div class="recgraph">')
    assert found.attributed[0].sentence in html
    cells = re.findall(r"<caption>(.*?)</caption>", html)
    assert cells == ["attribution of the events", "agreement", "faithfulness"]
