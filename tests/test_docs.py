"""The code of the pages "Add a ..." runs, and what it adds works by its name."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import itertools
import logging
import pkgutil
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from recgraph import registry
from recgraph.data.catalog.cards import Card
from recgraph.runs.plots import KINDS
from recgraph.train.config import TrainConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"
#: pages that are no part of the built documentation
OTHERS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "experiments/README.md")


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


def commands(page: str) -> list[list[str]]:
    """The arguments of the ``recgraph`` commands that a page shows, one list each."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", "").splitlines()
    shown = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ ")]
    return [words[1:] for words in shown if words[0] == "recgraph"]


def call(arguments: list[str]) -> str:
    """What a command prints; it must succeed."""
    from recgraph.cli.app import app

    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"recgraph {shlex.join(arguments)}\n{done.output}"
    return done.output


def small_split() -> Any:
    import polars as pl

    import recgraph as rg

    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["u", "i", "t"], orient="row")
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t").split("leave-one-out")


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import recgraph as rg

    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path))
    scope = run("add/model.md")
    split = small_split()
    assert len(rg.fit("recent-popularity", split, seed=1).evaluate("valid")) == 2
    model = registry.load("model", "decayed")(hidden_dim=8, norm_weight=0.5)
    assert set(rg.fit(model, split, seed=1, max_epochs=1).history[0]) >= {"rec", "norm"}
    close = registry.load("model", "closeviews")(hidden_dim=8)
    assert set(rg.fit(close, split, seed=1, max_epochs=1).history[0]) >= {"rec", "cl1", "gap"}
    smoothed = rg.fit(registry.load("model", "smoothed")(hidden_dim=8), split, seed=1, max_epochs=1)
    assert len(smoothed.recommend(users=[1], k=3)) == 3
    residual = rg.fit(registry.load("model", "residual")(hidden_dim=8), split, seed=1, max_epochs=1)
    assert len(residual.recommend(users=[1], k=3)) == 3
    assert scope["model"].embed().shape == (6, 8)


def test_a_model_of_nodes_as_the_page_has_it_takes_every_part_of_the_contrast() -> None:
    import recgraph as rg

    scope = run("add/model.md", without="load_dataset")
    base = {"metapaths": scope["model"].config.metapaths, "hidden_dim": 8, "objective": "info_nce"}
    for settings in (
        {"mixture": "mochi", "temperature_schedule": "cosine", "temperature_end": 0.2},
        {"objective": "sepclr"},
        {"transform": "gate", "weight": "propensity", "objective_options": {"n_candidates": 3}},
    ):
        model = scope["TwoPaths"](**{**base, **settings})
        assert torch.isfinite(
            torch.tensor(rg.fit_graph(model, scope["graph"], seed=0, max_epochs=2).history[1]["info"])
        )
    with pytest.raises(ValueError, match=r"target_momentum = 0.9: TwoPaths has no slow copy .* derive it from"):
        rg.fit_graph(scope["TwoPaths"](**base, target_momentum=0.9), scope["graph"], seed=0, max_epochs=1)


@pytest.mark.parametrize("name", ["decayed", "closeviews"])
def test_a_model_of_sequences_as_the_page_has_it_computes_what_its_settings_ask_for(name: str) -> None:
    import recgraph as rg
    from recgraph.models.base import Phase

    run("add/model.md", without="load_dataset")
    cls = registry.load("model", name)
    asked = {"hidden_dim": 8, "item_graph": "transitions", "item_contrast": 0.3}
    found = rg.fit(cls(**asked), small_split(), seed=1, max_epochs=1).history[0]
    assert "items" in found

    class Forgets(cls):  # type: ignore[misc, valid-type]
        phases = (Phase("model", ("model",), {"rec": 1.0}),)

    with pytest.raises(ValueError, match="settings of Forgets ask for 'items', which none of its phases computes"):
        rg.fit(Forgets(**asked), small_split(), seed=1, max_epochs=1)


def test_a_model_from_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    Path("mymodel.py").write_text(blocks("add/model.md", "python")[0])
    (shown,) = blocks("add/model.md", "bash")
    lines = [shlex.split(line)[1:] for line in shown.replace("ml-100k", "synthetic").splitlines()]
    assert [line[0] for line in lines] == ["train", "evaluate", "recommend", "tune"]
    for line in lines[:-1]:
        call(line)
    assert "half_life" in call([*lines[-1], "--workers", "1", "--trials", "2", "--test-seeds", "1"])


def test_augmentation() -> None:
    import recgraph as rg
    from recgraph.sparse.ragged import Ragged

    run("add/augmentation.md")
    rows = Ragged.from_lists([[1, 2, 3, 4], [5]])
    augmented = registry.load("augmentation", "drop")(p=0.5)(rows, torch.Generator().manual_seed(0))
    assert [row[-1] for row in augmented.to_lists()] == [4, 5]
    own = rg.models.SGL(hidden_dim=8, augmentations=({"name": "independent_drop", "p": 0.1},))
    assert "cl" in rg.fit(own, small_split(), seed=0, max_epochs=1).history[0]


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
    further = rg.models.SGL(hidden_dim=8, objective="two_sided", candidates="all")
    with pytest.raises(ValueError, match="objective = 'two_sided' contrasts two views of the same rows"):
        rg.fit(further, small_split(), seed=0, max_epochs=1)


def test_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recgraph.evaluate.metrics.base import RankedHits

    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path))
    run("add/metric.md")
    hits = RankedHits(torch.tensor([[True, False], [False, True]]), torch.tensor([1, 1]))
    assert registry.load("metric", "first_hit")()(hits, 2).tolist() == [1, 0]


def test_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    for text in blocks("add/dataset.md", "toml"):
        Path(f"{tomllib.loads(text)['name']}.toml").write_text(text)
    orders = [(user, (user + step) % 20, 3 + step % 3, step) for user in range(40) for step in range(8)]
    # one that counts too little, and an earlier one of the same user and product
    orders = [(0, 12, 1, 0), (0, 0, 5, -1), *orders]
    lines = ["customer,product,stars,at", *(f"{user},p{item},{stars},{at}" for user, item, stars, at in orders)]
    Path("orders.csv").write_text("\n".join(lines) + "\n")
    Path("papers").mkdir()
    Path("papers/by.txt").write_text("".join(f"{paper} {paper % 3}\n" for paper in range(9)))
    np.save("papers/labels.npy", np.arange(9) % 3)
    for first, part in enumerate(("train", "valid", "test")):
        np.save(f"papers/{part}.npy", np.arange(3 * first, 3 * first + 3))
    for arguments in commands("add/dataset.md"):
        call(arguments)
    scope = run("add/dataset.md")
    assert scope["graph"].count("paper") == 9
    assert scope["task"].target == "paper"
    assert Path("runs/papers/bundle").is_dir()


def test_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    rows = [
        (1000 + user, (user * 7 + step) % 20, user * 8 + step, 3 + step % 3) for user in range(40) for step in range(8)
    ]
    head = "customer_id,sku,event_time,stars\n"
    lines = [",".join(map(str, row)) + "\n" for row in rows]
    Path("log.csv").write_text(head + "".join(lines))
    for name, steps in (("train", range(6)), ("valid", range(6, 7)), ("test", range(7, 8))):
        Path(f"{name}.csv").write_text(head + "".join(line for n, line in enumerate(lines) if n % 8 in steps))
    train, *others = commands("own-data.md")
    shown = call([*train, "--set", "max_epochs=1", "--set", "hidden_dim=16"])
    assert "user = 'customer_id', item = 'sku', timestamp = 'event_time', rating = 'stars'" in shown
    for arguments in others:
        call([f"{tmp_path}/log.csv" if word == "/archive/log.csv" else word for word in arguments])
    card, _ = blocks("own-data.md", "toml")
    Path("log.toml").write_text(card)
    call(["data", "get", "log.toml"])


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


def test_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's second stage runs on a stand-in for LightGBM, which sums the columns."""
    import recgraph as rg
    from recgraph.tuning.space import SearchSpace

    class Booster:
        def __init__(self, model_str: str = "sum") -> None:
            assert model_str == "sum"

        def model_to_string(self) -> str:
            return "sum"

        def predict(self, features: Any) -> Any:
            return np.nansum(features, 1).astype(np.float64)

    class LGBMRanker:
        def __init__(self, **settings: Any) -> None:
            self.booster_ = Booster()

        def fit(self, features: Any, labels: Any, group: Any) -> None:
            assert len(features) == len(labels) == group.sum()

    monkeypatch.setitem(sys.modules, "lightgbm", SimpleNamespace(Booster=Booster, LGBMRanker=LGBMRanker))
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = run("two-stage.md")["run"]
    made.recommender.save("bundle")
    assert rg.load("bundle").recommend(users="all", k=3).equals(made.recommend(users="all", k=3))
    (space,) = blocks("two-stage.md", "toml")
    Path("space.toml").write_text(space)
    parts = {"model": registry.load("model", "twostage").Config}
    searched = {*tomllib.loads(space), "candidates", "negatives"} - {"ranker"}
    assert set(SearchSpace.of(parts, {}, "space.toml").dimensions) == searched
    lists = [["ease"], ["ease", "itemknn"]]
    assert SearchSpace.of(parts, {}, {"models": lists}).dimensions["models"].choices == tuple(lists)
    train, evaluate, tune = commands("two-stage.md")
    call(train)
    assert "ndcg@10" in call(evaluate)
    call([*tune[:-2], "--trials", "2", "--workers", "1", "--test-seeds", "1"])


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
        graph = prepare_graph(Card.load(DOCS.parent / "datasets" / f"{name}.toml"), shared / "data" / "hin", name).graph
        cost = MetaPath(path).cost(graph)
        assert (f"{cost.shape[0]:,}", f"{cost.nnz:,}") == (nodes, entries)
        assert (f"{cost.nbytes / 2**20:,.1f}", f"{cost.factor_nbytes / 2**20:,.1f}") == (composed, factorised)


def test_the_page_of_the_architecture_names_every_package() -> None:
    package = DOCS.parent / "recgraph"
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rows = re.findall(r"^\| (`.*?) \| ", (DOCS / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == names - {"__init__"}


def test_the_way_of_one_batch_names_functions_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    way = text.partition("## The way of one batch\n")[2].partition("\n## ")[0]
    listed = {
        (path, name)
        for path, names in re.findall(r"`(recgraph/[\w/]+\.py)`:((?:[\s,]*`[\w.]+`)+)", way)
        for name in re.findall(r"`([\w.]+)`", names)
    }
    assert [pair for pair in sorted(listed) if pair[1] not in _functions(DOCS.parent / pair[0])] == []
    assert f"{len(listed)} functions in {len({path for path, _ in listed})} files" in way


def _functions(path: Path) -> set[str]:
    """The functions of a module and the methods of its classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {
        f"{node.name}.{part.name}" for node in classes for part in node.body if isinstance(part, ast.FunctionDef)
    }
    return methods | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_files_that_pages_name_exist() -> None:
    root, pages = DOCS.parent, [*DOCS.glob("*.md"), *DOCS.glob("add/*.md")]
    missing = [
        f"{page.name}: {name}"
        for page in [*pages, *(root / name for name in OTHERS)]
        for name in re.findall(r"`((?:recgraph|tests|experiments|docs|datasets)/[\w./-]+)`", page.read_text("utf-8"))
        if not (root / name).exists() and "/mine/" not in name  # a board of the user's own
    ]
    assert missing == []


def test_modules_and_names_that_pages_name_exist() -> None:
    names = {
        name
        for page in [*DOCS.glob("*.md"), *DOCS.glob("add/*.md"), DOCS.parent / "README.md"]
        for name in re.findall(r"`(recgraph(?:\.\w+)+)`", page.read_text("utf-8"))
    }
    assert {name for name in names if not _exists(name)} == {"recgraph.model"}  # a group of entry points
    documented = re.findall(r"^\.\. auto\w+:: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    assert len(documented) > 30
    assert [name for name in documented if not _exists(name)] == []


def test_the_page_of_the_library_has_every_public_name() -> None:
    import recgraph as rg

    documented = {
        name.rpartition(".")[2]
        for name in re.findall(r"^\.\. auto\w+:: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    }
    modules = {"evaluate", "explain", "leaderboard", "models"}
    names = {*rg.__all__, *rg.evaluate.__all__, *rg.leaderboard.__all__, *rg.explain.__all__} - {"__version__"}
    assert sorted(names - modules - documented) == []


def _exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_pictures_are_small_shown_and_there() -> None:
    root = DOCS.parent
    shown = set()
    for page in [*DOCS.glob("*.md"), *DOCS.glob("add/*.md"), root / "README.md"]:
        for name in re.findall(r"!\[[^\]]+\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}; see docs/make_pictures.py"
            shown.add((page.parent / name).resolve())
    pictures = sorted((DOCS / "pictures").iterdir())
    assert len(pictures) > 10
    assert {path.name: path.stat().st_size for path in pictures if path.stat().st_size > 200_000} == {}
    assert [path.name for path in pictures if path not in shown] == []


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    found = [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in found if "_build" not in path.parts}
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
    # a twelfth of the time: a smaller model learns the planted order in fewer epochs, by larger steps
    sizes = "hidden_dim=64), split, refit=True, max_epochs=30,"
    assert sizes in code
    code = code.replace(sizes, "hidden_dim=16), split, refit=True, max_epochs=8, learning_rate=0.01,")
    scope: dict[str, Any] = {"frame": frame, "new_users": new_users}
    *head, last = code.strip().splitlines()
    exec("\n".join(head).replace("run.recommend(", "found = run.recommend("), scope)
    assert isinstance(scope["found"], pd.DataFrame)
    assert list(scope["found"]["rank"]) == list(range(1, 11))
    again = eval(last, scope)
    assert sorted(again["user_id"].unique()) == [17, 42]
    # what is served knows the newest film, which the fit that is measured would recommend
    watched = set(zip(frame["user_id"], frame["movie_id"], strict=True))
    assert not watched & set(zip(again["user_id"], again["movie_id"], strict=True))
    blind = scope["run"].selection.recommend(users=[17, 42], k=10)
    newest = {(user, f"film-{(user + 7) % 30}") for user in (17, 42)}
    assert newest & set(zip(blind["user_id"], blind["movie_id"], strict=True))
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
    summary = write_leaderboard.SUMMARY.read_text(encoding="utf-8")
    assert write_leaderboard.results() == summary, "run: python docs/write_leaderboard.py"


def test_the_page_of_metrics_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import write_metrics

    assert write_metrics.page() == write_metrics.PAGE.read_text(encoding="utf-8"), "run: python docs/write_metrics.py"


def test_vectors_batch_and_rules_of_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    import recgraph as rg
    from recgraph.serve.rules import Rules

    rows = [(user, item, step) for user in (196, 22, *range(8)) for step, item in enumerate((475, 50, user % 5, 1682))]
    films = {"item_id": [475, 50, 1682], "genres": [["Comedy"], ["War"], ["Comedy"]], "margin": [1.0, 2.0, None]}
    films |= {"title": ["Spy Hard", "Star Wars", "'Til There Was You"]}
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "t"], orient="row")
    data = rg.Interactions.from_frame(frame, user="user_id", item="item_id", timestamp="t")
    data = data.with_features(item_features=pl.DataFrame(films))
    vectors, similar, batch, rules, exported = blocks("serving.md", "python")
    fitted = rg.fit(rg.models.SASRec(hidden_dim=16), data.split("leave-one-out"), seed=0, max_epochs=1)
    monkeypatch.setattr(rg, "fit", lambda model, data, seed, max_epochs: fitted)
    parts: list[Any] = []
    scope: dict[str, Any] = {"rg": rg, "data": data, "write": parts.append}
    for code in (vectors, similar, batch, rules):
        exec(compile(code, "serving.md", "exec", dont_inherit=True), scope)
    assert [scope[name].height for name in ("items", "users", "some", "new")] == [data.n_items, data.n_users, 2, 1]
    assert len(parts) == 1
    if importlib.util.find_spec("onnxruntime"):
        fitted.export(tmp_path / "out")
        monkeypatch.chdir(tmp_path / "out")
        scope["HISTORY"] = [475, 50]
        exec(compile(exported, "serving.md", "exec", dont_inherit=True), scope)
        assert scope["best"] == fitted.recommend(histories={"new": [475, 50]})["item_id"].to_list()
    (tmp_path / "rules.toml").write_text(blocks("serving.md", "toml")[0])
    read = Rules.read(tmp_path / "rules.toml")
    assert not fitted.recommend(users=[196], rules=read, exclude_seen=False)["item_id"].is_in([1682]).any()


def test_watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # pytest has the log
    scope = run("watching.md")
    assert (tmp_path / "curves.svg").read_text().startswith("<svg ")
    assert [row["epoch"] for row in scope["curves"].rows] == [1, 2]
    # the commands of the page are understood
    settings = {
        argument.partition("=")[0]
        for arguments in commands("watching.md")
        for option, argument in itertools.pairwise(arguments)
        if option == "--set"
    }
    assert settings <= {*TrainConfig.model_fields}
    table = (DOCS / "watching.md").read_text("utf-8").partition("| kind |")[2]
    assert tuple(re.findall(r'^\| `"(\w+)"` ', table, re.MULTILINE)) == KINDS
