"""``recgraph parts`` lists what models are made of."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from recgraph import registry
from recgraph.cli.app import app


def rows(*arguments: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(app, ["parts", *arguments, "--format", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_part_is_listed_with_what_it_is() -> None:
    found = {(row["kind"], row["part"]) for row in rows()}
    for kind in set(registry.kinds()) - {"graph", "metric", "model"}:
        assert {(kind, name) for name in registry.written(kind)} <= found
    assert not [row for row in rows() if not row["what"]]


def test_a_kind_alone_and_a_part_in_detail() -> None:
    assert {row["kind"] for row in rows("weight")} == {"weight"}
    assert [row["setting"] for row in rows("regulariser", "margin")] == ["coefficient", "temperature", "scope"]
    assert "hidden_dim" in [row["setting"] for row in rows("augmenter", "mlp")]


def test_an_unknown_kind_is_refused() -> None:
    done = CliRunner().invoke(app, ["parts", "wait"])
    assert done.exit_code == 2
    assert "kind 'wait' is not known; the kinds are" in done.stderr.replace("\n", " ")
