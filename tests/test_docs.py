"""What the pages show works: code blocks run once, with trainings of an epoch; commands are parsed; names exist.

The examples learn, the notebooks run, and tables that people wrote say what the boards say.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from command_line import works
from typer.main import get_command

from recgraph import registry
from recgraph.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
#: written by docs/write_reference.py for each build
GENERATED = {"commands", "examples", "library", "models", "parts"}
#: pages that are no part of the built documentation
OTHERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "experiments/README.md")]
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # pytest has the log
    monkeypatch.chdir(tmp_path)


def blocks(page: str, *languages: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def run(page: str, scope: dict[str, Any] | None = None, without: str | None = None) -> dict[str, Any]:
    """Run the code of a page; a block of text that follows a block of code is what that prints.

    Args:
        scope: names that the page takes for granted.
        without: leave blocks with this text out.
    """
    scope = {"__name__": page, **(scope or {})}
    text = (DOCS / page).read_text(encoding="utf-8")
    for code, shown in re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE):
        if without is not None and without in code:
            continue
        code = re.sub(r"max_epochs=\d+", "max_epochs=1", code)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, page, "exec", dont_inherit=True), scope)
        assert not shown or printed.getvalue() == shown
    return scope


@pytest.mark.parametrize(
    "page",
    [
        "add/augmentation.md",
        "add/encoder.md",
        "add/metric.md",
        "add/objective.md",
        "concepts.md",
        "graph-recommenders.md",
        "training.md",
    ],
)
def test_the_code_of_a_page_runs(page: str) -> None:
    run(page)


def small_split() -> Any:
    import polars as pl

    import recgraph as rg

    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["u", "i", "t"], orient="row")
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t").split("leave-one-out")


def test_models_of_ones_own() -> None:
    import recgraph as rg

    run("add/model.md", without="load_dataset")
    split = small_split()
    for name in ("decayed", "closeviews", "smoothed", "residual"):
        made = rg.fit(registry.load("model", name)(hidden_dim=8), split, seed=1, max_epochs=1)
        assert len(made.recommend(users=[1], k=3)) == 3


def test_a_data_set_with_a_card_of_ones_own() -> None:
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
    for page, words in shown_commands():
        if page == "docs/add/dataset.md":
            works("", *words)
    assert run("add/dataset.md")["graph"].count("paper") == 9


def test_a_card_of_ones_own_data() -> None:
    rows = [
        (1000 + user, (user * 7 + step) % 20, user * 8 + step, 3 + step % 3) for user in range(40) for step in range(8)
    ]
    lines = ["customer_id,sku,event_time,stars", *(",".join(map(str, row)) for row in rows)]
    Path("log.csv").write_text("\n".join(lines) + "\n")
    card, _ = blocks("own-data.md", "toml")
    Path("log.toml").write_text(card)
    works("data get log.toml")


def test_typed_graphs() -> None:
    there = importlib.util.find_spec("dgl") is not None  # tests/graph requires it where it must be there
    assert run("heterogeneous-graphs.md", without=None if there else "to_dgl")["products"][0].shape == (4, 4)


def test_the_lines_of_the_readme() -> None:
    pd = pytest.importorskip("pandas")
    rows = [(user, f"film-{(user + step) % 30}", 100 * user + step) for user in range(60) for step in range(8)]
    scope: dict[str, Any] = {
        "frame": pd.DataFrame(rows, columns=["user_id", "movie_id", "ts"]),
        "new_users": pd.DataFrame({"user_id": ["new", "new"], "movie_id": ["film-3", "film-4"], "ts": [1, 2]}),
        "films": pd.DataFrame(
            [(f"film-{n}", "war" if n % 2 else "love") for n in range(30)], columns=["movie_id", "genre"]
        ),
        "people": pd.DataFrame([(n, "cook" if n % 3 else "spy") for n in range(60)], columns=["user_id", "job"]),
    }
    shown = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    for code in shown:
        exec(re.sub(r"(max_epochs=30, )?seed=7\)", "seed=7, max_epochs=1)", code), scope)
    assert len(scope["run"].recommend(users=[17], k=3)) == 3


@pytest.mark.slow
def test_two_stages() -> None:
    run("two-stage.md", without="lightgbm")


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """The ``recgraph`` commands that pages and notebooks show, with the name of the page."""
    texts = {
        name_of(page): "\n".join(
            re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        )
        for page in [*PAGES, *OTHERS]
    }
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        texts[name_of(notebook)] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for name, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            # variables, another command before it, and what a shell does with its output
            found = re.match(r"(?:[$!] ?)?(?:\w+=\S+ )*(?:torchrun .*-m )?recgraph (.*)", line.strip())
            if found and "{" not in line:
                words = re.split(r" (?:[|>]|2>|&&|;) ?", re.sub(r"\$\w+", "1", found[1]))[0]
                yield name, [word for word in shlex.split(words, comments=True) if word != "&"]


def test_every_command_that_is_shown_is_understood() -> None:
    """By the command line's own parser; nothing is run."""
    root: Any = get_command(app)
    wrong, count = [], 0
    for page, words in shown_commands():
        count += 1
        try:
            context, group, rest = None, root, words
            while hasattr(group, "resolve_command"):
                context = group.make_context(group.name, [*rest], parent=context)
                _, group, rest = group.resolve_command(context, [*context._protected_args, *context.args])
            group.make_context(group.name, [*rest], parent=context)
        except Exception as error:
            if type(error).__name__ != "Exit":  # --version and --help end there
                wrong.append(f"{page}: recgraph {shlex.join(words)}: {error}")
    assert wrong == []
    assert count > 60


def test_leaderboards() -> None:
    from recgraph.leaderboard.board import load_board

    (text,) = blocks("leaderboards.md", "toml")
    Path("mine").mkdir()
    Path("mine/ml-100k.toml").write_text(text)
    (sheet,) = load_board("mine").sheets
    assert sheet.models


def test_rules_of_serving(tmp_path: Path) -> None:
    from recgraph.serve.rules import Rules

    (tmp_path / "rules.toml").write_text(blocks("recommending.md", "toml")[0])
    Rules.read(tmp_path / "rules.toml")


def test_files_that_pages_name_exist() -> None:
    missing = [
        f"{page.name}: {name}"
        for page in [*PAGES, *OTHERS]
        for name in re.findall(r"`((?:recgraph|tests|experiments|docs|datasets)/[\w./-]+)`", page.read_text("utf-8"))
        # a board of the user's own, and a study that is over
        if not (ROOT / name).exists() and not re.search("/mine/|experiments/components", name)
    ]
    assert missing == []


def test_modules_and_names_that_pages_name_exist() -> None:
    names = {
        name
        for page in [*PAGES, ROOT / "README.md"]
        for name in re.findall(r"`(recgraph(?:\.\w+)+)`", page.read_text("utf-8"))
    }
    groups = {"recgraph.model"}  # of entry points
    assert [name for name in sorted(names - groups) if not _exists(name)] == []


def _exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_pictures_are_small_shown_and_there() -> None:
    shown = set()
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(r"!\[[^\]]+\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}; see docs/make_pictures.py"
            shown.add((page.parent / name).resolve())
    pictures = sorted((DOCS / "pictures").iterdir())
    assert {path.name: path.stat().st_size for path in pictures if path.stat().st_size > 200_000} == {}
    assert [path.name for path in pictures if path not in shown] == []


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in [*PAGES, *NOTEBOOKS]}
    pages |= {f"generated/{name}" for name in GENERATED}
    assert pages - {"index"} == set(re.findall(r"^([a-z0-9/_-]+)$", index, flags=re.MULTILINE))


def test_links_lead_to_pages_and_headings() -> None:
    texts = {page: page.read_text("utf-8") for page in [*PAGES, *OTHERS, ROOT / "experiments/ideas/README.md"]}
    for notebook in NOTEBOOKS:
        texts[notebook] = "".join(
            "".join(cell["source"]) + "\n"
            for cell in json.loads(notebook.read_text("utf-8"))["cells"]
            if cell["cell_type"] == "markdown"
        )
    wrong = []
    for page, text in texts.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if "://" in link or target.suffix == ".rst":
                continue
            if not target.exists() or (anchor and anchor not in anchors(target)):
                wrong.append(f"{name_of(page)}: {link}")
    assert wrong == []


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#{1,3} (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_reference_is_made_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import recgraph as rg

    monkeypatch.syspath_prepend(str(DOCS))
    import write_reference

    assert set(write_reference.PAGES) == GENERATED
    write_reference.write(tmp_path / "generated")
    written = {name: (tmp_path / "generated" / f"{name}.rst").read_text("utf-8") for name in GENERATED}
    assert [name for name in registry.names("model") if f"\n{name}\n-" not in written["models"]] == []
    assert "\nrecgraph train\n-" in written["commands"]
    documented = {
        name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (\S+)$", written["library"], re.MULTILINE)
    }
    modules = {name for name, module in rg._WHERE.items() if module == "recgraph"}
    assert sorted({*rg.__all__} - {"__version__"} - modules - documented) == []


def test_pages_that_are_written_by_programs_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import write_leaderboard

    again = "run: python docs/write_leaderboard.py"
    assert write_leaderboard.page() == write_leaderboard.PAGE.read_text(encoding="utf-8"), again
    assert write_leaderboard.results() == write_leaderboard.SUMMARY.read_text(encoding="utf-8"), again


# -- examples and notebooks


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_mclrec_learns() -> None:
    curve, ndcg = load(DOCS / "examples" / "mclrec.py").main(epochs=6)
    assert curve[-1] < 0.8 * curve[0]
    # the expectation at chance is 10 of 300 items
    assert ndcg > 0.1


def test_meow_learns() -> None:
    curve, accuracy = load(DOCS / "examples" / "meow.py").main()
    assert curve[-1] < 0.95 * curve[0]
    assert accuracy > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(movies))
    code = [cell for cell in load(DOCS / "run_tutorials.py").run(path, tmp_path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_notebooks_have_their_outputs() -> None:
    for path in NOTEBOOKS:
        cells: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code), f"{path.name}: python docs/run_tutorials.py {path.stem}"
        assert "/tmp/" not in json.dumps([cell["outputs"] for cell in code]), path.name


# -- tables that people wrote, beside the page of the boards


ITEM_GRAPHS = {
    "\nOn MovieLens 100K": "MovieLens 100K, sequences and graphs of films in one model",
    "\nOn Amazon Beauty": "Amazon Beauty, sequences and a graph of products in one model",
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
    text = (DOCS / "results.md").read_text("utf-8").partition("### Graphs of items")[2].partition(where)[2]
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
    said = {
        label: cells
        for label, *cells in rows((DOCS / "results.md").read_text("utf-8").partition("### Classes of nodes")[2])
    }
    for label, (title, entry) in NODES.items():
        for cell, (macro_f1, *_) in zip(said[label], scores(title)[entry][:3], strict=False):
            shown = [f"{float(number) * 100:.2f}" for number in macro_f1.split(" ± ")]
            assert cell.split(" ± ") == shown[: 2 if "±" in cell else 1], label


def test_the_page_of_baselines() -> None:
    text = (DOCS / "results.md").read_text("utf-8").partition("## MovieLens-100k, leave-one-out by time")[2]
    text = text.partition("\n## ")[0]
    said = {cells[0]: cells[3] for cells in rows(text)}
    board = scores("MovieLens-100k, the next film")
    for label, entry in FILMS.items():
        ndcg, recall = (short(cell.split(" ")[0]) for cell in board[entry][0][:2])
        assert said[label] == f"{recall} / {ndcg}"
