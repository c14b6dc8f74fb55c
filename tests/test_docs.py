"""What the pages show works: code blocks run once, with trainings of an epoch; commands are parsed;
names exist.

The notebooks run, and tables that people wrote say what the boards say.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import json
import logging
import pkgutil
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
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
OTHERS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "experiments/README.md")
]
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
    return re.findall(
        rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE
    )


def run(
    page: str, scope: dict[str, Any] | None = None, without: str | None = None
) -> dict[str, Any]:
    """Run the code of a page; a block of text that follows a block of code is what that prints.

    Args:
        scope: names that the page takes for granted.
        without: leave blocks with this text out.
    """
    scope = {"__name__": page, **(scope or {})}
    text = (DOCS / page).read_text(encoding="utf-8")
    for code, shown in re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE
    ):
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
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t").split(
        "leave-one-out"
    )


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
    orders = [
        (user, (user + step) % 20, 3 + step % 3, step) for user in range(40) for step in range(8)
    ]
    # one that counts too little, and an earlier one of the same user and product
    orders = [(0, 12, 1, 0), (0, 0, 5, -1), *orders]
    lines = [
        "customer,product,stars,at",
        *(f"{user},p{item},{stars},{at}" for user, item, stars, at in orders),
    ]
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
        (1000 + user, (user * 7 + step) % 20, user * 8 + step, 3 + step % 3)
        for user in range(40)
        for step in range(8)
    ]
    lines = ["customer_id,sku,event_time,stars", *(",".join(map(str, row)) for row in rows)]
    Path("log.csv").write_text("\n".join(lines) + "\n")
    card, _ = blocks("own-data.md", "toml")
    Path("log.toml").write_text(card)
    works("data get log.toml")


def test_typed_graphs() -> None:
    # tests/graph requires it where it must be there
    there = importlib.util.find_spec("dgl") is not None
    assert run("heterogeneous-graphs.md", without=None if there else "to_dgl")["products"][
        0
    ].shape == (4, 4)


def test_the_lines_of_the_readme() -> None:
    pd = pytest.importorskip("pandas")
    rows = [
        (user, f"film-{(user + step) % 30}", 100 * user + step)
        for user in range(60)
        for step in range(8)
    ]
    films = [(f"film-{n}", "war" if n % 2 else "love") for n in range(30)]
    scope: dict[str, Any] = {
        "frame": pd.DataFrame(rows, columns=["user_id", "movie_id", "ts"]),
        "new_users": pd.DataFrame(
            {"user_id": ["new", "new"], "movie_id": ["film-3", "film-4"], "ts": [1, 2]}
        ),
        "films": pd.DataFrame(films, columns=["movie_id", "genre"]),
        "people": pd.DataFrame(
            [(n, "cook" if n % 3 else "spy") for n in range(60)], columns=["user_id", "job"]
        ),
    }
    shown = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
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
            re.findall(
                r"^```(?:console|bash|sh)\n(.*?)^```",
                page.read_text("utf-8"),
                re.DOTALL | re.MULTILINE,
            )
        )
        for page in [*PAGES, *OTHERS]
    }
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        texts[name_of(notebook)] = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
        )
    for name, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            # variables, another command before it, and what a shell does with its output
            found = re.match(
                r"(?:[$!] ?)?(?:\w+=\S+ )*(?:torchrun .*-m )?recgraph (.*)", line.strip()
            )
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
                _, group, rest = group.resolve_command(
                    context, [*context._protected_args, *context.args]
                )
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
        for name in re.findall(
            r"`((?:recgraph|tests|experiments|docs|datasets)/[\w./-]+)`", page.read_text("utf-8")
        )
        # a board of the user's own, and a study that is over
        if not (ROOT / name).exists() and not re.search("/mine/|experiments/components", name)
    ]
    assert missing == []


def test_modules_and_names_that_pages_name_exist() -> None:
    text = "\n".join(page.read_text("utf-8") for page in [*PAGES, ROOT / "README.md"])
    for name in {*re.findall(r"`(recgraph(?:\.\w+)+)`", text)} - {
        "recgraph.model"
    }:  # a group of entry points
        pkgutil.resolve_name(name)


def test_pictures_are_small_shown_and_there() -> None:
    shown = set()
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(r"!\[[^\]]+\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}; see docs/make_pictures.py"
            shown.add((page.parent / name).resolve())
    pictures = sorted((DOCS / "pictures").iterdir())
    assert {
        path.name: path.stat().st_size for path in pictures if path.stat().st_size > 200_000
    } == {}
    assert [path.name for path in pictures if path not in shown] == []


def test_the_pages_can_be_read_by_one_person() -> None:
    own = [page for page in PAGES if page.name != "leaderboard.md"]
    words = {page: len(page.read_text("utf-8").split()) for page in [*own, ROOT / "README.md"]}
    assert words.pop(ROOT / "README.md") <= 950
    assert (len(own) <= 36, sum(words.values()) <= 38_000) == (True, True), (
        f"{sum(words.values()):,}, {len(own)}"
    )


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in [*PAGES, *NOTEBOOKS]}
    pages |= {f"generated/{name}" for name in GENERATED}
    assert pages - {"index"} == set(
        re.findall(r"^(?:[A-Z].* <)?([a-z0-9/_-]+)>?$", index, flags=re.MULTILINE)
    )


def test_links_lead_to_pages_and_headings() -> None:
    texts = {
        page: page.read_text("utf-8")
        for page in [*PAGES, *OTHERS, ROOT / "experiments/ideas/README.md"]
    }
    for notebook in NOTEBOOKS:
        texts[notebook] = "".join(
            "".join(cell["source"]) + "\n"
            for cell in json.loads(notebook.read_text("utf-8"))["cells"]
            if cell["cell_type"] == "markdown"
        )
    wrong = []
    for page, text in texts.items():
        for link in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        ):
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


def test_the_reference_is_made_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import recgraph as rg

    monkeypatch.syspath_prepend(str(DOCS))
    import write_reference

    assert set(write_reference.PAGES) == GENERATED
    write_reference.write(tmp_path / "generated")
    written = {
        name: (tmp_path / "generated" / f"{name}.rst").read_text("utf-8") for name in GENERATED
    }
    assert [
        name for name in registry.names("model") if f"\n{name}\n-" not in written["models"]
    ] == []
    assert "\nrecgraph train\n-" in written["commands"]
    documented = {
        name.rpartition(".")[2]
        for name in re.findall(r"^\.\. auto\w+:: (\S+)$", written["library"], re.MULTILINE)
    }
    modules = {name for name in rg.__all__ if inspect.ismodule(getattr(rg, name))}
    assert sorted({*rg.__all__} - {"__version__"} - modules - documented) == []


def test_pages_that_are_written_by_programs_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import write_leaderboard

    again = "run: python docs/write_leaderboard.py"
    assert write_leaderboard.page() == write_leaderboard.PAGE.read_text(encoding="utf-8"), again
    assert write_leaderboard.results() == write_leaderboard.SUMMARY.read_text(encoding="utf-8"), (
        again
    )


# -- notebooks


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(movies))
    cells = runpy.run_path(str(DOCS / "run_tutorials.py"))["run"](path, tmp_path).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_notebooks_have_their_outputs() -> None:
    for path in NOTEBOOKS:
        cells: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code), (
            f"{path.name}: python docs/run_tutorials.py {path.stem}"
        )
        assert "/tmp/" not in json.dumps([cell["outputs"] for cell in code]), path.name


# -- tables that people wrote, beside the page of the boards

#: section of results.md -> columns of ours, and the data sets of the boards that they come from
OURS = {
    "### Graphs of items": (
        [1, 2, 3],
        "MovieLens 100K, sequences and graphs",
        "Amazon Beauty, sequences and a graph",
    ),
    "### Classes of nodes": ([1, 2, 3], "ACM", "DBLP", "AMiner", "IMDB"),
    "### MovieLens-100k, leave-one-out by time": (
        [3],
        "MovieLens-100k, the next film",
        "MovieLens 100K, sequences",
    ),
    "### Amazon Beauty, leave-one-out": ([4, 5], "Amazon Beauty, the next product"),
}
#: a single training, and rows of several models
ELSEWHERE = (
    "| MCLRec, one sample a sequence",
    "| Popularity, ",
    "| EASE, SLIM",
    "| BPR-MF, LightGCN",
)


def numbers(text: str) -> set[float]:
    """Means alone; percentages as shares."""
    found = [float(each) for each in re.findall(r"(?<!± )(?<![\d.])\d*\.\d+", text)]
    return {round(each / 100 if each > 1 else each, 4) for each in found}


@pytest.mark.parametrize("heading", OURS)
def test_what_people_wrote_of_boards_stands_there(heading: str) -> None:
    """The numbers of a row are those of one entry of a board."""
    columns, *titles = OURS[heading]
    theirs: dict[str, set[float]] = {}  # entry of a data set -> its numbers
    for part in (DOCS / "leaderboard.md").read_text("utf-8").split("\n### "):
        for line in part.splitlines() if part.startswith(tuple(titles)) else ():
            if line.startswith("| "):
                theirs.setdefault(part[:40] + line.split(" | ")[0], set()).update(numbers(line))
    text = (
        (DOCS / "results.md").read_text("utf-8").partition(f"\n{heading}\n")[2].partition("\n##")[0]
    )
    rows = [
        line.split(" | ")
        for line in text.splitlines()
        if line.startswith("| ") and re.search(r"\.\d\d", line)
    ]
    ours = {
        cells[0]: {n for c in columns if c < len(cells) for n in numbers(cells[c])}
        for cells in rows
    }
    wrong = [
        name for name, found in ours.items() if not any(found <= row for row in theirs.values())
    ]
    assert len(ours) > 3
    assert [name for name in wrong if not name.startswith(ELSEWHERE)] == []
