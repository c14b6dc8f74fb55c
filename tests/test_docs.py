"""The code of the pages "Add a ..." runs, and what it adds works by its name."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from recgraph import registry
from recgraph.data.catalog.cards import Card

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def run(page: str, without: str | None = None) -> dict[str, Any]:
    """Run the code of a page; a block of text that follows a block of code is what that prints.

    Args:
        without: leave blocks with this text out.
    """
    scope: dict[str, Any] = {"__name__": page}
    text = (DOCS / page).read_text(encoding="utf-8")
    for code, shown in re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE):
        if without is not None and without in code:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, page, "exec", dont_inherit=True), scope)
        assert not shown or printed.getvalue() == shown
    return scope


def small_split() -> Any:
    import polars as pl

    import recgraph as rg

    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["u", "i", "t"], orient="row")
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t").split("leave-one-out")


def test_models() -> None:
    import recgraph as rg

    run("add/model.md")
    split = small_split()
    assert len(rg.fit("recent-popularity", split, seed=1).evaluate("valid")) == 2
    model = registry.load("model", "decayed")(hidden_dim=8, norm_weight=0.5)
    assert set(rg.fit(model, split, seed=1, max_epochs=1).history[0]) >= {"rec", "norm"}


def test_augmentation() -> None:
    from recgraph.sparse.ragged import Ragged

    run("add/augmentation.md")
    rows = Ragged.from_lists([[1, 2, 3, 4], [5]])
    augmented = registry.load("augmentation", "drop")(p=0.5)(rows, torch.Generator().manual_seed(0))
    assert [row[-1] for row in augmented.to_lists()] == [4, 5]


def test_weighting_and_objective() -> None:
    import recgraph as rg
    from recgraph.contrast.term import ContrastiveTerm

    run("add/weighting.md")
    a, b = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    plain, weighted = ContrastiveTerm()(a, b), ContrastiveTerm(weight="hard")(a, b)
    assert not torch.isclose(plain, weighted)
    # half of either direction is InfoNCE in both
    both = ContrastiveTerm(objective="info_nce", objective_settings={"both_directions": True}, weight="hard")(a, b)
    torch.testing.assert_close(ContrastiveTerm(objective="two_sided", weight="hard")(a, b), both)
    assert rg.fit(rg.models.SimGCL(hidden_dim=8, weight="hard"), small_split(), seed=0, max_epochs=1).history


def test_metric() -> None:
    from recgraph.evaluate.metrics.base import RankedHits

    run("add/metric.md")
    hits = RankedHits(torch.tensor([[True, False], [False, True]]), torch.tensor([1, 1]))
    assert registry.load("metric", "first_hit")()(hits, 2).tolist() == [1, 0]


def test_card(tmp_path: Path) -> None:
    (text,) = blocks("add/dataset.md", "toml")
    (tmp_path / "my-shop.toml").write_text(text)
    assert Card.load(tmp_path / "my-shop.toml").expected.users == 1200


def test_node_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope = run("node-task.md")
    assert scope["run"].embeddings().columns == ["paper", "embedding"]
    assert len(scope["run"].record["results"]["nodes"]["linear"]) == 1


def test_graph_recommenders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope = run("graph-recommenders.md")
    assert sorted(scope["run"].recommend(users=["u3"], k=24, exclude_seen=False)["film"]) == list(range(24))
    assert scope["run"].record["init_items"]["n_found"] == 24


def test_typed_graphs() -> None:
    there = importlib.util.find_spec("dgl") is not None  # tests/data/test_hetero.py requires it where it must be there
    assert run("heterogeneous-graphs.md", without=None if there else "to_dgl")["products"][0].shape == (4, 4)


def test_the_cost_of_paths_is_what_the_page_says(shared: Path) -> None:
    from recgraph.data.catalog.graphs import prepare_graph
    from recgraph.graph.metapath import MetaPath

    text = (DOCS / "heterogeneous-graphs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (acm|imdb|aminer) \| (\S+) \| (\S+) \| (\S+) \|.*\| (\S+) \| (\S+) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for name, path, nodes, entries, composed, factorised in rows:
        graph = prepare_graph(Card.load(DOCS.parent / "datasets" / f"{name}.toml"), shared / "data" / "hin").graph
        cost = MetaPath(path).cost(graph)
        assert (f"{cost.shape[0]:,}", f"{cost.nnz:,}") == (nodes, entries)
        assert (f"{cost.nbytes / 2**20:,.1f}", f"{cost.factor_nbytes / 2**20:,.1f}") == (composed, factorised)


def test_the_page_of_the_architecture_names_every_package() -> None:
    package = DOCS.parent / "recgraph"
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rows = re.findall(r"^\| (`.*?) \| ", (DOCS / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == names - {"__init__"}


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {
        path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md") if "_build" not in path.parts
    }
    listed = set(re.findall(r"^([a-z/_-]+)$", index, flags=re.MULTILINE))
    assert pages - {"index"} == listed


def test_the_ten_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd = pytest.importorskip("pandas")
    rows = [(user, f"film-{(user + step) % 30}", 100 * user + step) for user in range(60) for step in range(8)]
    frame = pd.DataFrame(rows, columns=["user_id", "movie_id", "ts"])
    new_users = pd.DataFrame({"user_id": ["new", "new"], "movie_id": ["film-3", "film-4"], "ts": [1, 2]})
    code, relations = re.findall(
        r"^```python\n(.*?)^```", (DOCS.parent / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"frame": frame, "new_users": new_users}
    *head, last = code.strip().splitlines()
    exec("\n".join(head).replace("run.recommend(", "found = run.recommend("), scope)
    assert isinstance(scope["found"], pd.DataFrame)
    assert list(scope["found"]["rank"]) == list(range(1, 11))
    again = eval(last, scope)
    assert sorted(again["user_id"].unique()) == [17, 42]
    # the planted order: each film is followed by the next
    assert (scope["found"]["movie_id"][:3] == "film-5").any()
    scope["films"] = pd.DataFrame(
        [(f"film-{n}", "war" if n % 2 else "love") for n in range(30)], columns=["movie_id", "genre"]
    )
    scope["people"] = pd.DataFrame([(n, "cook" if n % 3 else "spy") for n in range(60)], columns=["user_id", "job"])
    exec(relations.replace("seed=7)", "seed=7, max_epochs=1)"), scope)
    assert len(scope["run"].recommend(users=[17], k=3)) == 3


def test_leaderboards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recgraph.leaderboard.board import load_board
    from recgraph.leaderboard.plan import jobs_of

    (text,) = blocks("leaderboards.md", "toml")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ml-100k.toml").write_text(text)
    (sheet,) = load_board(tmp_path / "mine").sheets
    assert [len(jobs_of(sheet, entry)) for entry in sheet.models[:2]] == [1, 3]
    monkeypatch.chdir(tmp_path)
    scope = run("leaderboards.md")
    assert str(scope["summary"]) == "1 made"
    assert "Popularity" in (tmp_path / "smoke.md").read_text(encoding="utf-8")


def test_the_page_of_results_is_what_the_records_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import write_leaderboard

    page = write_leaderboard.PAGE.read_text(encoding="utf-8")
    assert write_leaderboard.page() == page, "run: python docs/write_leaderboard.py"


def test_the_page_of_metrics_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import write_metrics

    assert write_metrics.page() == write_metrics.PAGE.read_text(encoding="utf-8"), "run: python docs/write_metrics.py"
