"""The comparison of two versions: what counts as a difference, and that every model has a case."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusing import refused

from experiments.same_numbers import Listed, Outcome, differences, digest, main, report
from experiments.same_numbers_cases import CASES
from recgraph import registry

WEIGHT = "bundle/model:item.weight"


def outcome(value: float = 1.0, name: str = WEIGHT, ndcg: float = 0.5) -> Outcome:
    values = {name: np.full((2, 3), value, dtype=np.float32)}
    digests = {key: digest(array) for key, array in values.items()}
    return Outcome(["sasrec"], digests, {"test ndcg@10": ndcg}, values=values)


def members(kind: str) -> set[str]:
    """The keys of the library's own members: other tests register more."""
    return {registry.key(name) for names in registry._MEMBERS[kind].values() for name in names}


def test_every_model_has_a_case() -> None:
    assert {registry.key(arguments[0]) for arguments in CASES.values()} == members("model")


@pytest.mark.parametrize(("kind", "setting"), [("loss", "loss"), ("weight", "weight"), ("augmenter", "augmenter")])
def test_every_member_has_a_case(kind: str, setting: str) -> None:
    tried = {s.split("=", 1)[1] for arguments in CASES.values() for s in arguments if s.startswith(f"{setting}=")}
    tried |= {"mlp", "labeldistance"}  # the augmenter by default; a weight that needs ratings, which no case has
    assert members(kind) <= {registry.key(value) for value in tried}


def test_one_bit_is_a_difference() -> None:
    ours = outcome(float(np.nextafter(np.float32(1), np.float32(2))))
    assert differences("sasrec", outcome(), ours, Listed()) == {WEIGHT: "at most 1.19e-07"}
    assert differences("sasrec", outcome(0.0), outcome(-0.0), Listed()) == {WEIGHT: "at most 0"}


def test_numbers_names_and_failures_are_differences() -> None:
    base = outcome()
    assert differences("sasrec", base, outcome(ndcg=0.25), Listed()) == {"test ndcg@10": "0.5 -> 0.25"}
    moved = outcome(name="bundle/model:items.weight")
    assert set(differences("sasrec", base, moved, Listed()).values()) == {"only in the base", "only here"}
    assert differences("sasrec", base, Outcome(["sasrec"], error="no\nsuch model"), Listed()) == {
        "fails here": "such model"
    }
    assert "command" in differences("sasrec", base, replace(base, command=["sasrec", "--set", "x=1"]), Listed())


def test_renamed_parameters_are_compared() -> None:
    listed = Listed(renamed=[{"case": "sas*", "old": "item.", "new": "items.table."}])
    moved = outcome(name="bundle/model:items.table.weight")
    assert differences("sasrec", outcome(), moved, listed) == {}
    assert differences("sasrec", outcome(2.0), moved, listed) == {"bundle/model:items.table.weight": "at most 1"}
    assert differences("gru4rec", outcome(), moved, listed) != {}


def test_what_is_listed_may_differ() -> None:
    listed = Listed(differs=[{"case": "sasrec", "what": "bundle/*", "why": "wider"}])
    assert report({"sasrec": outcome(2.0)}, {"sasrec": outcome()}, listed)
    assert not report({"sasrec": outcome(2.0, ndcg=0.25)}, {"sasrec": outcome()}, listed)
    anything = Listed(differs=[{"case": "*", "what": "*", "why": "anything"}])
    assert report({}, {"sasrec": outcome()}, anything)  # a case that is new
    assert not report({"sasrec": outcome()}, {"sasrec": Outcome(["sasrec"], error="no")}, anything)


def test_lists_are_checked(tmp_path: Path) -> None:
    (tmp_path / "listed.toml").write_text('[[differs]]\ncase = "*"\nwhat = "*"\n')
    with refused("differs"):
        Listed.read(tmp_path / "listed.toml")


def test_fingerprints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, only = tmp_path / "kept.json", ["--only", "popularity split=time"]
    assert main(["--write", str(kept), *only]) == 0
    assert main(["--against", str(kept), *only]) == 0
    document = json.loads(kept.read_text())
    ((name, case),) = document["cases"].items()
    assert any(key.startswith("test ndcg@10") for key in case["numbers"])
    assert any(key.startswith("valid ndcg@10") for key in case["numbers"])
    case["digests"] = dict.fromkeys(case["digests"], "0")
    kept.write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["--against", str(kept), *only]) == 1
    assert name in capsys.readouterr().out
    document["machine"]["torch"] = "0"
    kept.write_text(json.dumps(document))
    with refused("torch"):
        main(["--against", str(kept), *only])
