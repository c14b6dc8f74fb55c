"""Parts of a user's own from one file, as they would type it: train, evaluate, recommend, tune, a
bundle.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import forked
import pytest

OWN = '''
"""A model, a metric, an augmentation, a weight and a loss of my own."""

import torch

import recgraph as rg
from recgraph.augment.sequence import SequenceAugmentation
from recgraph.contrast.weights import Weight
from recgraph.evaluate.metrics import Metric
from recgraph.losses.base import NextItemLoss
from recgraph.models.sequence.contrastive import CL4SRec


@rg.register("model")
class Mine(CL4SRec):
    """CL4SRec under a name of its own."""


@rg.register("metric")
class FirstOfAll(Metric):
    """1 if the first item is relevant."""

    name = "first_of_all"

    def compute(self, ranked, k):
        return ranked.hits[:, 0].double()


@rg.register("augmentation")
class Backwards(SequenceAugmentation):
    """The sequence from its end."""

    def augment(self, sequences, generator):
        last = sequences.offsets[1:][sequences.rows] - 1
        return sequences.with_values(sequences.values[last - sequences.positions])


@rg.register("weight")
class Alike(Weight):
    """All candidates weigh 2."""

    def log_w(self, pairs):
        return torch.full((len(pairs.anchors), len(pairs.candidates)), 0.6931, device=pairs.anchors.device)


@rg.register("loss")
class Squared(NextItemLoss):
    """The mean squared distance of the states from their targets."""

    def forward(self, hidden, targets, table, generator=None):
        return (hidden - table[targets]).square().mean()
'''
PARTS = (
    *("--set", 'augmentations=["backwards", "crop"]'),
    *("--set", "contrast.weight=alike"),
    *("--set", "loss=squared"),
    *("--set", "hidden_dim=8"),
    *("--set", "batch_size=512"),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "parts").mkdir()
    (folder / "parts" / "mine.py").write_text(OWN, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Made:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def recgraph(work: Path, *arguments: str, program: str = "recgraph") -> Made:
    """Run a command in a process that has imported nothing of the user's."""
    env = {**os.environ, "RECGRAPH_HOME": str(work / "home")}
    with forked.module(program, *arguments, cwd=work, env=env) as one:
        return Made(one.wait(), one.output, one.error)


def done(work: Path, *arguments: str) -> str:
    made = recgraph(work, *arguments)
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    """A run in which each part is one's own."""
    own = ("--import", "parts/mine.py", "--set", "metric=first_of_all@5", "--set", "max_epochs=2")
    done(
        work,
        "train",
        "mine",
        "--dataset",
        "synthetic",
        "--out",
        "run",
        "--device",
        "cpu",
        *PARTS,
        *own,
    )
    return work / "run"


def test_it_is_evaluated_and_recommends(work: Path, trained: Path) -> None:
    table = done(
        work, "evaluate", "run", "-m", "first_of_all", "--cutoff", "5", "--import=parts/mine.py"
    )
    assert table.splitlines()[1].startswith("first_of_all@5\t")
    assert (
        len(
            done(
                work, "--import", "parts/mine.py", "recommend", "run", "--user", "1", "-k", "3"
            ).splitlines()
        )
        == 4
    )


def test_a_bundle_says_what_it_needs_and_imports_nothing(work: Path, trained: Path) -> None:
    made = recgraph(work, "recommend", "run", "--user", "1")
    assert made.returncode == 2
    assert "mine.py" in made.stderr


@pytest.mark.slow
def test_workers_of_a_study_import_it(work: Path) -> None:
    arguments = (
        "--trials",
        "2",
        "--workers",
        "2",
        "--test-seeds",
        "1",
        "--set",
        "max_epochs=1",
        "--device",
        "cpu",
    )
    asked = ("-m", "first_of_all@5", "--out", "study", "--import", "parts/mine.py")
    done(work, "tune", "mine", "--dataset", "synthetic", *PARTS, *arguments, *asked)
    result = json.loads((work / "study" / "result.json").read_text())
    assert [each["file"] for each in result["imports"]] == ["mine.py"]
    trial = json.loads(next((work / "study" / "trials").rglob("record.json")).read_text())
    assert [each["file"] for each in trial["provenance"]["imports"]] == ["mine.py"]
