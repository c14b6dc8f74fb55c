"""Whether a change of code changed a number: small trainings of every model against fingerprints.

    python experiments/same_numbers.py [--quick] [--only sasrec --only meow]
    python experiments/same_numbers.py --write     # new fingerprints, of this tree

Each case is trained for two epochs with a seed, in float64, and evaluated on the valid and the test
part. Its fingerprint is the loss of the first steps, the sum and the norm of each tensor of the
bundle and of the last checkpoint, the curve, the metrics, the lists of some users, and the hashes
of split and protocol. The data is drawn by NumPy's generators, the same everywhere.

Another processor or number of threads adds up in another order, so numbers are compared within a
relative tolerance: ``TOLERANCE`` in float64, ``SINGLE_TOLERANCE`` where a model computes in float32
whatever it is given. Integers and hashes are compared exactly, and lists item by item, but where two
scores differ by less than the tolerance.

A change that has to move a number writes the fingerprints anew, and its commit says which and why.
The exit code is 1 where something differs or a case cannot run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

if __package__:
    from experiments.same_numbers_cases import CASES, NODES, QUICK, SINGLE, write_data
else:
    sys.path.append(str(Path(__file__).resolve().parent))
    from same_numbers_cases import CASES, NODES, QUICK, SINGLE, write_data

FINGERPRINTS = Path(__file__).with_suffix(".json")
SEED = 11
TOLERANCE, SINGLE_TOLERANCE = 1e-6, 1e-3
#: what of a training is kept: the losses of so many steps, the lists of so many users
N_STEPS, N_USERS, LIST_LENGTH = 3, 4, 10
#: eigenvectors: of equal eigenvalues their space alone is determined
_BASES = {"factors"}
#: numbers of the curve that say how long it took
_COST = re.compile(r"seconds|per_second|memory")
_OTHER_CUTOFF = re.compile(r"@(?!10\b)")

#: name of a number -> its value; a list of numbers or of items is one entry
Fingerprint = dict[str, Any]


def train_and_evaluate(arguments: Sequence[str], folder: Path) -> Fingerprint:
    """The fingerprint of one case, ``recgraph train`` with these arguments.

    Raises:
        RuntimeError: the command failed; the message is what it printed.
    """
    run = folder / "run"
    with _losses_of_first_steps() as losses:
        _call(["train", *arguments, "--seed", str(SEED), "--out", str(run)])
    fingerprint: Fingerprint = {f"loss of step {i}": loss for i, loss in enumerate(losses)}
    fingerprint |= _tensors(run) | _curve_and_hashes(run)
    if NODES in arguments:
        # probes of nodes are chosen on the valid part and scored on the test part by one call
        return fingerprint | _metrics("nodes", _call(["evaluate", str(run), "--format", "json"]))
    for part in ("valid", "test"):
        printed = _call(["evaluate", str(run), "--split", part, "--format", "json"])
        fingerprint |= _metrics(part, printed)
    return fingerprint | _lists(run)


def _call(arguments: list[str]) -> str:
    """What ``recgraph ARGUMENTS`` prints, in this process: imports cost more than trainings."""
    from recgraph.cli.app import main

    output, messages = io.StringIO(), io.StringIO()
    sys.argv = ["recgraph", *arguments]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(messages):
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
    if code:
        raise RuntimeError(messages.getvalue().strip() or f"exit code {code}")
    return output.getvalue()


@contextlib.contextmanager
def _losses_of_first_steps() -> Iterator[list[dict[str, float]]]:
    """The terms of the first calls of a model that is trained."""
    from torch.nn.modules.module import register_module_forward_hook

    from recgraph.models.base import Model

    losses: list[dict[str, float]] = []

    def keep(module: Any, _: Any, terms: Any) -> None:
        is_step = isinstance(module, Model) and module.training and isinstance(terms, dict)
        if is_step and len(losses) < N_STEPS:
            losses.append({name: float(value.detach()) for name, value in terms.items()})

    handle = register_module_forward_hook(keep)
    try:
        yield losses
    finally:
        handle.remove()


def _tensors(run: Path) -> Fingerprint:
    """All tensors of the bundle, which holds the best epoch, and of the last checkpoint's model."""
    fingerprint: Fingerprint = {}
    for path in sorted(run.rglob("*.safetensors")):
        places = path.relative_to(run).parts
        if "bundle" not in places and path.stem != "model":
            continue
        file_name = path.stem if "bundle" in places else "last checkpoint"
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                values = file.get_tensor(name)
                if name in _BASES:
                    values = np.linalg.norm(values, axis=1)
                fingerprint[f"{file_name}: {name}"] = summary(values)
    return fingerprint


def summary(values: npt.NDArray[Any]) -> list[Any]:
    """Type and shape, the sum, the sum with weights 1 .. 2 along the flat array, and the norm.

    The weighted sum tells two arrays apart that hold the same values in another order.
    """
    flat = values.reshape(-1).astype(np.float64).clip(-1e30, 1e30)  # of bounds that stand for none
    weighted_sum = flat @ np.linspace(1, 2, flat.size)
    numbers = (flat.sum(), weighted_sum, np.linalg.norm(flat))
    return [f"{values.dtype} {values.shape}", *map(_rounded, numbers)]


def _is_compared(name: str) -> bool:
    """Whether a number is compared: no cost, and of the metrics those at one cut-off."""
    return not _COST.search(name) and not _OTHER_CUTOFF.search(name)


def _rounded(value: Any) -> float:
    """To more digits than are compared."""
    return float(f"{value:.9g}")


def _metrics(part: str, printed: str) -> Fingerprint:
    """The numbers of a printed table, named by part, the texts of the row, and column."""
    fingerprint: Fingerprint = {}
    for row in json.loads(printed):
        texts = [str(value) for value in row.values() if isinstance(value, str)]
        for column, value in row.items():
            key = " ".join([part, *texts, column])
            if not isinstance(value, str) and _is_compared(key):
                assert key not in fingerprint, f"two numbers are called {key!r}"
                fingerprint[key] = _rounded(value) if isinstance(value, float) else value
    return fingerprint


def _curve_and_hashes(run: Path) -> Fingerprint:
    """The epochs of the log, and the hashes of data and protocols of the record."""
    fingerprint: Fingerprint = {}
    hashes: dict[str, set[str]] = {}
    for path in sorted(run.rglob("*.json*")):
        text = path.read_text(encoding="utf-8")
        documents = text.splitlines() if path.suffix == ".jsonl" else [text]
        for table in _tables([json.loads(document) for document in documents]):
            for key, value in table.items():
                if key.endswith("hash") and isinstance(value, str):
                    hashes.setdefault(key, set()).add(value)
                elif "epoch" in table and "loss" in table and _is_compared(key):
                    fingerprint[f"epoch {table['epoch']} {key}"] = value
    return fingerprint | {key: ", ".join(sorted(values)) for key, values in hashes.items()}


def _tables(document: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings within a JSON document."""
    if isinstance(document, dict):
        yield document
        document = list(document.values())
    if isinstance(document, list):
        for inner in document:
            yield from _tables(inner)


def _lists(run: Path) -> Fingerprint:
    """The first users' lists: items with their scores, best first."""
    import recgraph as rg

    recommender: Any = rg.load(run)
    recommender.record["fitted_on"] = "all"  # which leaves the warning of held-out events out
    users = recommender.users.values.to_list()[:N_USERS]
    frame = recommender.recommend(users=users, k=LIST_LENGTH, fallback="popularity")
    columns = recommender.columns
    lists = frame.group_by(columns.user, maintain_order=True).agg(columns.item, "score")
    return {f"list of user {user}": [items, scores] for user, items, scores in lists.rows()}


# -- comparing


def differences(base: Fingerprint, ours: Fingerprint, tolerance: float) -> dict[str, str]:
    """What differs -> how."""
    differing: dict[str, str] = {}
    for key in {**base, **ours}:
        if key not in ours or key not in base:
            differing[key] = "only here" if key in ours else "only in the fingerprint"
        elif not _agree(key, base[key], ours[key], tolerance):
            differing[key] = f"{base[key]!r} -> {ours[key]!r}"
    return differing


def _agree(key: str, base: Any, ours: Any, tolerance: float) -> bool:
    if key.startswith("list of user"):
        return same_lists(*base, *ours, tolerance)
    if isinstance(base, list):
        # sums of numbers of both signs are as wrong as the numbers are large
        norm = base[-1]
        pairs = zip(base, ours, strict=True)
        return all(same_number(*pair, tolerance, scale=norm) for pair in pairs)
    if isinstance(base, dict):
        is_same = [same_number(base[name], ours.get(name), tolerance) for name in base]
        return base.keys() == ours.keys() and all(is_same)
    return same_number(base, ours, tolerance)


def same_number(base: Any, ours: Any, tolerance: float, scale: float = 0.0) -> bool:
    """Floats within a tolerance relative to them or to ``scale``; all else exactly."""
    if not isinstance(base, float) or not isinstance(ours, float):
        return bool(base == ours)
    if math.isnan(base):
        return math.isnan(ours)
    return math.isclose(base, ours, rel_tol=tolerance, abs_tol=tolerance * scale)


def same_lists(
    base_items: Sequence[Any],
    base_scores: Sequence[float],
    items: Sequence[Any],
    scores: Sequence[float],
    tolerance: float,
) -> bool:
    """Whether scores agree rank by rank, and items, but where the score of the next rank is so close
    that rounding decides.

    Equal scores are no such case: their order is drawn with the seed.
    """
    scale = max(map(abs, base_scores), default=0.0)
    if len(base_items) != len(items) or not np.allclose(
        base_scores, scores, rtol=tolerance, atol=tolerance * scale
    ):
        return False
    for rank, (base_item, item) in enumerate(zip(base_items, items, strict=True)):
        neighbours = [*base_scores[max(rank - 1, 0) : rank], *base_scores[rank + 1 : rank + 2]]
        gaps = [abs(score - base_scores[rank]) for score in neighbours]
        is_close_call = any(0 < gap <= tolerance * scale for gap in gaps)
        if base_item != item and not is_close_call:
            return False
    return True


def report(base: Mapping[str, Fingerprint], ours: Mapping[str, Fingerprint]) -> bool:
    """Print a line a case; whether all is the same."""
    is_same = True
    for name, fingerprint in ours.items():
        tolerance = SINGLE_TOLERANCE if name in SINGLE else TOLERANCE
        differing = differences(base.get(name, {}), fingerprint, tolerance)
        is_same = is_same and not differing
        print(f"{'DIFFERS' if differing else 'same':8} {len(fingerprint):5} numbers  {name}")
        for key in [*differing][:8]:
            print(f"    {key}: {differing[key]}")
        if len(differing) > 8:
            print(f"    and {len(differing) - 8} more")
    return is_same


def write(path: Path, fingerprints: Mapping[str, Fingerprint]) -> None:
    """Write a case a line."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(fingerprint, separators=(',', ':'))}"
        for name, fingerprint in fingerprints.items()
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read(path: Path) -> dict[str, Fingerprint]:
    """The fingerprints of all cases."""
    fingerprints: dict[str, Fingerprint] = json.loads(path.read_text(encoding="utf-8"))
    return fingerprints


def run_cases(names: Sequence[str], work: Path) -> dict[str, Fingerprint]:
    """The fingerprints of this tree; a case that fails has its message alone."""
    os.environ["RECGRAPH_HOME"], os.environ["RECGRAPH_CARDS"] = str(work / "home"), str(work)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    write_data(work)
    import torch

    torch.set_default_dtype(torch.float64)
    for card in sorted(work.glob("*.toml")):
        _call(["data", "get", card.stem, "--from", str(card.with_suffix(""))])
    fingerprints: dict[str, Fingerprint] = {}
    for number, name in enumerate(names):
        folder, start = work / f"case-{number}", time.perf_counter()
        folder.mkdir()
        try:
            fingerprint = train_and_evaluate(CASES[name], folder)
        except RuntimeError as error:
            fingerprint = {"error": str(error).splitlines()[0]}
        fingerprints[name] = json.loads(json.dumps(fingerprint))  # as they are read from the file
        print(f"  {time.perf_counter() - start:5.1f} s  {name}", file=sys.stderr, flush=True)
    return fingerprints


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 where all is the same, 1 where something differs or failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, default=FINGERPRINTS, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="write the fingerprints anew")
    parser.add_argument("--quick", action="store_true", help="a case of each kind, in seconds")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only cases whose name has this text in it"
    )
    options = parser.parse_args(arguments)
    names = list(QUICK if options.quick else CASES)
    if options.only:
        names = [name for name in names if any(text in name for text in options.only)]
    if not names:
        parser.error(f"no case has {' or '.join(options.only)} in its name")
    with tempfile.TemporaryDirectory(prefix="same-numbers-") as scratch:
        ours = run_cases(names, Path(scratch))
    failed = [name for name in ours if "error" in ours[name]]
    if options.write:
        for name in failed:
            print(f"{name}: {ours[name]['error']}", file=sys.stderr)
        if not failed:
            write(options.against, ours)
        return int(bool(failed))
    is_same = report(read(options.against) if options.against.exists() else {}, ours)
    print("all the same" if is_same and not failed else "NOT THE SAME: see above")
    return 0 if is_same and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
