"""The comparison with fingerprints: what counts as a difference, and that every model has a case."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.same_numbers import KEPT, Listed, Outcome, differences, digest, read, report
from experiments.same_numbers_cases import CASES
from recgraph import registry

WEIGHT = "bundle/model:item.weight"


def outcome(value: float = 1.0, name: str = WEIGHT, ndcg: float = 0.5) -> Outcome:
    return Outcome({name: digest(np.full((2, 3), value, dtype=np.float32))}, {"test ndcg@10": ndcg})


def members(kind: str) -> set[str]:
    """The keys of the library's own members: other tests register more."""
    return {registry.key(name) for names in registry._MEMBERS[kind].values() for name in names}


@pytest.mark.parametrize(("kind", "default"), [("model", ""), ("loss", ""), ("weight", ""), ("augmenter", "mlp")])
def test_every_member_has_a_case(kind: str, default: str) -> None:
    tried = {arguments[0] for arguments in CASES.values()} | {default}
    tried |= {s.split("=", 1)[1] for arguments in CASES.values() for s in arguments if s.startswith(f"{kind}=")}
    assert members(kind) <= {registry.key(value) for value in tried}


def test_one_bit_a_number_a_name_and_a_failure_are_differences() -> None:
    base = outcome()
    assert differences("sasrec", base, outcome(), Listed()) == {}
    bit = outcome(float(np.nextafter(np.float32(1), np.float32(2))))
    assert set(differences("sasrec", base, bit, Listed())) == {WEIGHT}
    assert differences("sasrec", base, outcome(ndcg=0.25), Listed()) == {"test ndcg@10": "0.5 -> 0.25"}
    moved = outcome(name="bundle/model:items.table.weight")
    assert len(differences("sasrec", base, moved, Listed())) == 2
    assert differences("sasrec", base, Outcome(error="no\nsuch model"), Listed()) == {"fails here": "such model"}
    renamed = Listed(renamed=[{"case": "sas*", "old": "item.", "new": "items.table."}])
    assert differences("sasrec", base, moved, renamed) == {}
    assert differences("gru4rec", base, moved, renamed) != {}


def test_what_is_listed_may_differ() -> None:
    listed = Listed(differs=[{"case": "sasrec", "what": "bundle/*", "why": "wider"}])
    assert report({"sasrec": outcome(2.0)}, {"sasrec": outcome()}, listed)
    assert not report({"sasrec": outcome(2.0, ndcg=0.25)}, {"sasrec": outcome()}, listed)
    assert not report({"sasrec": outcome()}, {"sasrec": Outcome(error="no")}, listed)


def test_every_case_has_fingerprints() -> None:
    try:
        kept = read(KEPT)
    except ValueError:
        pytest.skip("the fingerprints are of another kind of machine")
    assert {*CASES} <= {*kept}
    assert all(each.digests and each.numbers and not each.error for each in kept.values())
