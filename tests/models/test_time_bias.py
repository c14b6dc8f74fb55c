"""Times inside the encoders that read them: batches, views, queries, recommendations, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refusing import refused
from test_time_gaps import TRAIN, built, query, trained

from recgraph.data.part import Part
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path

WITH_TIMES: dict[str, Any] = {"encoder": {"time_bias": True}}
CASES = [
    ("hstu", {}),
    ("fuxialpha", {}),
    ("mclrec", {"encoder": {"name": "hstu"}}),
    ("duorec", {"encoder": {"name": "fuxi"}}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("time_gaps", [False, True])
def test_times_are_learnt_and_change_the_scores(name: str, settings: dict[str, Any], time_gaps: bool) -> None:
    model = trained(built(name, **settings, **WITH_TIMES, time_gaps=time_gaps))
    assert model.reads_times
    asked = query()
    assert asked.times is not None
    with torch.no_grad():
        found, unknown = model.score(asked), model.score(query(times=False))
        with accelerator_path():
            torch.testing.assert_close(model.score(asked), found, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], unknown[1])  # no history
    assert not torch.allclose(found[2], unknown[2])
    with pytest.raises(ValueError):
        model.padded_form()
    with pytest.raises(ValueError):
        model.reading(asked.take(torch.tensor([2]))).inputs()


def test_a_log_without_times_is_refused() -> None:
    with refused("time_bias"):
        built("hstu", **WITH_TIMES).batches(Part(TRAIN.items, TRAIN.n_items), 8, Generators(0))
