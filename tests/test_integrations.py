"""The page of other systems runs against each library's embedded form, and finds what recgraph
itself finds.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import forked
import pytest

import recgraph as rg

PAGE = Path(__file__).resolve().parents[1] / "docs" / "integrations.md"
LIBRARIES = ("duckdb", "lancedb", "qdrant_client", "huggingface_hub", "fsspec")
TEXT = PAGE.read_text("utf-8")
(DOCKERFILE,) = re.findall(r"^```dockerfile\n(.*?)^```", TEXT, re.S | re.M)


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory, unavailable: Callable[[str, str], None]) -> Any:
    """The names of the page, all of whose code has run in the present folder."""
    absent = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if absent:
        unavailable(
            "integrations",
            f"not installed: {', '.join(absent)}; pip install 'recgraph[integrations]'",
        )
    import duckdb

    rows = [
        f"({user}, {(user + step) % 9}, {step}, true)" for user in range(12) for step in range(6)
    ]
    names: dict[str, Any] = {}
    with chdir(tmp_path_factory.mktemp("shop")):
        with duckdb.connect("shop.duckdb") as shop:
            shop.execute(
                "CREATE TABLE orders (customer INT, product INT, bought BIGINT, paid BOOL)"
            )
            shop.execute(f"INSERT INTO orders VALUES {', '.join(rows)}")
        for code in re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M):
            exec(compile(code.replace("max_epochs=30", "max_epochs=1"), PAGE.name, "exec"), names)
            names.setdefault("first", names["run"])
        yield names


def test_lists_are_a_table(scope: dict[str, Any]) -> None:
    assert (
        scope["shop"]
        .sql("SELECT * FROM recommended")
        .pl()
        .equals(scope["lists"].cast({"rank": int}))
    )


def test_vector_search_finds_what_the_model_ranks(scope: dict[str, Any]) -> None:
    wanted = scope["first"].recommend(histories={"visitor": [3, 4, 5]}, k=3)
    assert scope["found"]["product"].to_list() == wanted["product"].to_list()
    assert [hit.payload["product"] for hit in scope["hits"]] == wanted["product"].to_list()
    assert [hit.score for hit in scope["hits"]] == pytest.approx(
        wanted["score"].to_list(), rel=1e-5, abs=1e-6
    )


def test_a_repository_of_the_hub_has_a_card_and_loads_from_the_hubs_cache(
    scope: dict[str, Any],
) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load("hub/README.md").data
    values = {
        (each.dataset_revision, each.metric_type): each.metric_value for each in card.eval_results
    }
    for one in scope["run"].selection.evaluate("test"):
        assert values[one.hash, "ndcg@10"] == pytest.approx(one.metrics["ndcg@10"])
    blobs, snapshot = Path("cache/blobs"), Path("cache/snapshots/main/bundle")
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in Path("hub/bundle").iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../../blobs") / file.name)
    again = rg.load("cache/snapshots/main")
    assert again.recommend(users=[3], k=3).equals(scope["run"].recommend(users=[3], k=3))


def test_a_bundle_comes_back_from_object_storage(scope: dict[str, Any]) -> None:
    assert (
        rg.load("fetched")
        .recommend(users=[3], k=3)
        .equals(scope["first"].recommend(users=[3], k=3))
    )


def test_the_container_serves_and_its_check_of_health_passes(scope: dict[str, Any]) -> None:
    command, check = (
        json.loads(words)
        for words in re.findall(r"^(?:HEALTHCHECK )?CMD (.*)", DOCKERFILE, re.M)[::-1]
    )
    words = [
        "hub/bundle" if word == "/srv/bundle" else "0" if word == "8000" else word
        for word in command[1:]
    ]
    with forked.module("recgraph", *words) as service:
        service.until(lambda: re.search(r"http://\S+:\d+\S*\s", service.error))
        (port,) = re.findall(r"http://\S+:(\d+)", service.error)
        subprocess.run(
            [sys.executable, "-c", check[-1].replace("8000", port)], check=True, timeout=60
        )
