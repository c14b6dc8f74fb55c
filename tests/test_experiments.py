"""Programs of experiments/: what counts as another number, and the harness of benchmarks, which
measures nothing.
"""

from __future__ import annotations

import numpy as np
import pytest

from experiments.same_numbers import KEPT, Listed, Outcome, differences, digest, read
from experiments.same_numbers_cases import CASES
from recgraph import registry

WEIGHT = "bundle/model:item.weight"


def outcome(value: float = 1.0, name: str = WEIGHT, ndcg: float = 0.5) -> Outcome:
    return Outcome({name: digest(np.full((2, 3), value, dtype=np.float32))}, {"test ndcg@10": ndcg})


def members(kind: str) -> set[str]:
    """The keys of the library's own members: other tests register more."""
    return {*registry._MEMBERS[kind]}


@pytest.mark.parametrize(
    ("kind", "default"), [("model", ""), ("loss", ""), ("weight", ""), ("augmenter", "mlp")]
)
def test_every_member_has_a_case(kind: str, default: str) -> None:
    tried = {arguments[0] for arguments in CASES.values()} | {default}
    settings = (setting.partition("=") for arguments in CASES.values() for setting in arguments)
    tried |= {value for name, _, value in settings if name.split(".")[-1] == kind}
    assert members(kind) <= {registry.key(value) for value in tried}


def test_one_bit_a_number_a_name_and_a_failure_are_differences() -> None:
    base = outcome()
    assert differences("sasrec", base, outcome(), Listed()) == {}
    bit = outcome(float(np.nextafter(np.float32(1), np.float32(2))))
    assert set(differences("sasrec", base, bit, Listed())) == {WEIGHT}
    assert differences("sasrec", base, outcome(ndcg=0.25), Listed()) == {
        "test ndcg@10": "0.5 -> 0.25"
    }
    moved = outcome(name="bundle/model:items.table.weight")
    assert len(differences("sasrec", base, moved, Listed())) == 2
    assert differences("sasrec", base, Outcome(error="no\nsuch model"), Listed()) == {
        "fails here": "such model"
    }
    renamed = Listed(renamed=[{"case": "sas*", "old": "item.", "new": "items.table."}])
    assert differences("sasrec", base, moved, renamed) == {}
    assert differences("gru4rec", base, moved, renamed) != {}


def test_every_case_has_fingerprints() -> None:
    try:
        kept = read(KEPT)
    except ValueError:
        pytest.skip("the fingerprints are of another kind of machine")
    assert {*CASES} <= {*kept}
    assert all(each.digests and each.numbers and not each.error for each in kept.values())
