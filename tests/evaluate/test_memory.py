"""The predicted peak: said before the ranking, kept within the bound, and true of what a process takes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_rankers import Vectors

from recgraph.data.part import Cases
from recgraph.evaluate import evaluate
from recgraph.evaluate.limits import Limits
from recgraph.sparse.ragged import Ragged

LOG = "recgraph.evaluate.collect"


def cases(n_users: int, n_items: int) -> Cases:
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(0, n_items, (n_users, 10), generator=generator)
    truth = torch.randint(0, n_items, (n_users, 1), generator=generator)
    lengths = torch.full((n_users,), 10)
    return Cases(
        torch.arange(n_users),
        Ragged.from_lengths(history.flatten(), lengths),
        Ragged.from_lengths(truth.flatten(), torch.ones(n_users, dtype=torch.int64)),
        n_items,
    )


def model(n_users: int, n_items: int, width: int = 16) -> Vectors:
    generator = torch.Generator().manual_seed(2)
    return Vectors(torch.randn(n_users, width, generator=generator), torch.randn(n_items, width, generator=generator))


def predicted(caplog: pytest.LogCaptureFixture, **options: object) -> tuple[str, dict[str, float]]:
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger=LOG):
        results = evaluate(model(500, 30_000), cases(500, 30_000), **options)
    (record,) = caplog.records
    return record.getMessage(), results["exclude"].metrics


def test_it_is_said_before_and_follows_from_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    free, metrics = predicted(caplog)
    assert free.startswith("predicted peak ")
    assert "blocks of 30,720 items" in free
    bounded, same = predicted(caplog, memory_mib=20)
    assert int(bounded.split()[2]) <= 20
    assert "blocks of 30,720" not in bounded
    assert same == metrics
    low, same = predicted(caplog, precision="bfloat16")
    assert int(low.split()[2]) > int(free.split()[2])
    assert same == metrics
    places, _ = predicted(caplog, metrics=["auc"])
    assert int(places.split()[2]) > int(free.split()[2])


def test_too_little_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"memory_mib = 2 is too little .* predicted peak 1[0-9] MiB"):
        evaluate(model(500, 30_000), cases(500, 30_000), memory_mib=2)
    with pytest.raises(ValueError, match="give one of them"):
        Limits(block_items=5, memory_mib=5)
    with pytest.raises(ValueError, match="memory_mib = 0"):
        Limits(memory_mib=0)


def peak_mib() -> float:
    """The largest resident size of this process since that was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


PROGRAM = """
import json, logging, sys, torch
sys.path.insert(0, sys.argv[1])
from test_memory import LOG, cases, model, peak_mib
from recgraph.evaluate import evaluate
torch.set_num_threads(1)
options = json.loads(sys.argv[2])
evaluate(model(300, 3000), cases(300, 3000), **options)
asked, ranker = cases(6_000, 40_000), model(6_000, 40_000, 64)
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger(LOG).addHandler(handler)
logging.getLogger(LOG).setLevel(logging.DEBUG)
# the peak so far is forgotten: it becomes the size of now
open("/proc/self/clear_refs", "w").write("5")
before = peak_mib()
evaluate(ranker, asked, **options)
peak = peak_mib()
print(json.dumps([said[0], peak - before]))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are read from /proc")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory_mib": 60},
        {"metrics": ["ndcg", "catalogue_coverage", "auc"], "seen": ["exclude"]},
        {"ties": "expectation"},
    ],
)
def test_a_process_takes_no_more_than_was_predicted(options: dict[str, object]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, taken = json.loads(done.stdout)
    limit = int(said.split()[2])
    assert taken <= limit
    # and the prediction is no mere upper bound
    assert taken >= limit / 4
