"""Whether a change of code changed a number: small trainings of every model against committed
fingerprints.

    python experiments/same_numbers.py [--only sasrec --only meow]      # this tree against same_numbers.json
    python experiments/same_numbers.py --write                          # new fingerprints, of this tree

Each case is trained for two epochs with a seed, evaluated on the valid and the test part, and read
from what lies on disk: all tensors of the bundle and of the last checkpoint's model, the curve, the
hashes of split and protocol, and what ``recgraph evaluate`` prints. It runs on one thread of the
CPU, on small data that is made here. All cases take about a minute.

What had to differ since the fingerprints were written, and why, and which parameters have another
name now, is in ``same_numbers.toml`` beside this file. The exit code is 1 where something else
differs, or a case cannot run. Bits depend on the processor and on the versions of libraries:
fingerprints of another machine are refused.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

if __package__:
    from experiments.same_numbers_cases import CASES, NODES, write_data
else:
    sys.path.append(str(Path(__file__).resolve().parent))
    from same_numbers_cases import CASES, NODES, write_data

ROOT = Path(__file__).resolve().parents[1]
LISTED, KEPT = Path(__file__).with_suffix(".toml"), Path(__file__).with_suffix(".json")
SEED = 11
#: numbers of the curve that say how long it took
_COST = re.compile(r"seconds|per_second|memory")
_RUN, _PRINTED, _ERROR = "run", "printed.json", "error.txt"


@dataclass
class Outcome:
    """What a case came to.

    Attributes:
        digests: tensor -> 12 digits of the sha256 of its type, shape and bytes.
        numbers: name -> value, of the curve and of the evaluations; hashes are texts.
        error: why it could not run; empty where it ran.
    """

    digests: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Listed:
    """What had to differ, and what has another name; ``case`` and ``what`` are patterns of
    :mod:`fnmatch`.
    """

    differs: Sequence[Mapping[str, str]] = ()
    renamed: Sequence[Mapping[str, str]] = ()

    @classmethod
    def read(cls, path: Path) -> Listed:
        """Read the committed lists.

        Raises:
            ValueError: an entry has other keys than it must have.
        """
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        for name, keys in (
            ("differs", {"case", "what", "why"}),
            ("renamed", {"case", "old", "new"}),
        ):
            for entry in found.get(name, []):
                if set(entry) != keys:
                    raise ValueError(
                        f"{path}: [[{name}]] has {sorted(entry)}; it must have {sorted(keys)}"
                    )
        return cls(found.get("differs", []), found.get("renamed", []))

    def why(self, case: str, what: str) -> str | None:
        """Why a tensor or number of a case differs; None: it must not."""
        fits = (
            e["why"]
            for e in self.differs
            if fnmatchcase(case, e["case"]) and fnmatchcase(what, e["what"])
        )
        return next(fits, None)

    def rename(self, case: str, key: str) -> str:
        """What a tensor of the base is called in this tree; an old name that ends in "." renames
        all below it.
        """
        file, _, name = key.partition(":")
        for entry in self.renamed:
            old, new = entry["old"], entry["new"]
            if fnmatchcase(case, entry["case"]) and (
                name == old or (old.endswith(".") and name.startswith(old))
            ):
                return f"{file}:{new}{name[len(old) :]}"
        return key


# In the process of one version: only its command line is called.


def drive(work: Path, tree: Path, wanted: Sequence[str]) -> None:
    """Train and evaluate the cases, with the version of ``recgraph`` that is imported.

    Raises:
        RuntimeError: it is not the one in ``tree``, or the data cannot be prepared.
    """
    import recgraph

    if not Path(recgraph.__file__).resolve().is_relative_to(tree.resolve()):
        raise RuntimeError(f"recgraph comes from {recgraph.__file__}, not from {tree}")
    for card in sorted((work.parent / "cards").glob("*.toml")):
        code, told = _call(["data", "get", card.stem, "--from", str(card.with_suffix(""))])[::2]
        if code:
            raise RuntimeError(told)
    for name in wanted:
        folder, start = work / slug(name), time.perf_counter()
        folder.mkdir()
        error = _train_and_evaluate(CASES[name], folder)
        if error:
            (folder / _ERROR).write_text(error, encoding="utf-8")
        print(
            f"  {time.perf_counter() - start:5.1f} s  {name}{'  FAILED' if error else ''}",
            file=sys.stderr,
            flush=True,
        )


def _train_and_evaluate(case: Sequence[str], folder: Path) -> str:
    """Leave a run and what its evaluations print in a folder; the error message, or an empty
    text.
    """
    run, printed = folder / _RUN, {}
    code, _, told = _call(["train", *case, "--seed", str(SEED), "--out", str(run)])
    # probes of nodes are chosen on the valid part and scored on the test part by one call
    parts = (
        {"nodes": []} if NODES in case else {part: ["--split", part] for part in ("valid", "test")}
    )
    for part, options in parts.items():
        if code == 0:
            code, out, told = _call(["evaluate", str(run), *options, "--format", "json"])
            printed[part] = json.loads(out) if code == 0 else []
    (folder / _PRINTED).write_text(json.dumps(printed), encoding="utf-8")
    return (told.strip() or f"exit code {code}") if code else ""


def _call(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, output and messages of ``recgraph ARGUMENTS``, in this process: imports cost more
    than trainings.
    """
    from recgraph.cli.app import main

    out, told, sys.argv = io.StringIO(), io.StringIO(), ["recgraph", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, out.getvalue(), told.getvalue()


def slug(name: str) -> str:
    """The folder of a case."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


# In the process that compares.


def run_tree(tree: Path, work: Path, wanted: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes of the cases with the code in ``tree``.

    Raises:
        RuntimeError: the process of that version failed as a whole.
    """
    work.mkdir()
    paths = {
        "PYTHONPATH": tree,
        "RECGRAPH_HOME": work / "home",
        "RECGRAPH_CARDS": work.parent / "cards",
    }
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--drive", str(work), str(tree)]
    for name in wanted:
        command += ["--only", name]
    environment = {**os.environ, **{name: str(path) for name, path in paths.items()}, **alone}
    if subprocess.run(command, env=environment, cwd=work, check=False).returncode:
        raise RuntimeError(f"the trainings with {tree} failed; see the messages above")
    return {name: outcome(work / slug(name)) for name in wanted}


def outcome(folder: Path) -> Outcome:
    """Read what a case left on disk."""
    found = Outcome()
    if (folder / _ERROR).is_file():
        found.error = (folder / _ERROR).read_text(encoding="utf-8")
        return found
    for label, path in _tensor_files(folder / _RUN):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                found.digests[f"{label}:{name}"] = digest(file.get_tensor(name))
    for part, rows in json.loads((folder / _PRINTED).read_text(encoding="utf-8")).items():
        found.numbers |= _of_rows(part, rows)
    found.numbers |= _of_records(folder / _RUN)
    if not found.digests or not found.numbers:
        found.error = f"a run without {'numbers' if found.digests else 'tensors'}: has the layout of runs changed?"
    return found


def _tensor_files(run: Path) -> Iterator[tuple[str, Path]]:
    """All of the bundle, which holds the best epoch, and the model of the last checkpoint."""
    for path in sorted(run.rglob("*.safetensors")):
        parts = path.relative_to(run).parts
        if "bundle" in parts:
            yield "/".join(parts[parts.index("bundle") :]).removesuffix(".safetensors"), path
        elif path.stem == "model":
            yield "last/model", path


def digest(value: npt.NDArray[Any]) -> str:
    """12 digits of the sha256 of an array's type, shape and bytes."""
    head = f"{value.dtype} {value.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()[:12]


def _of_rows(part: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of a printed table, named by part, the texts of the row, and column."""
    found: dict[str, Any] = {}
    for row in rows:
        texts = [str(value) for value in row.values() if isinstance(value, str)]
        for column, value in row.items():
            if not isinstance(value, str):
                key = " ".join([part, *texts, column])
                assert key not in found, f"two numbers are called {key!r}"
                found[key] = value
    return found


def _of_records(run: Path) -> dict[str, Any]:
    """The curve and the hashes of data and protocols, wherever in the run's JSON files they are."""
    curve: dict[str, Any] = {}
    hashes: dict[str, set[str]] = {}
    for path in sorted(run.rglob("*.json*")):
        text = path.read_text(encoding="utf-8")
        documents = (
            [json.loads(line) for line in text.splitlines()]
            if path.suffix == ".jsonl"
            else [json.loads(text)]
        )
        for item in _mappings(documents):
            for key, value in item.items():
                if key.endswith("hash") and isinstance(value, str):
                    hashes.setdefault(key, set()).add(value)
            if "epoch" in item and "loss" in item:
                values = {key: value for key, value in item.items() if not _COST.search(key)}
                curve |= {f"epoch {item['epoch']} {key}": value for key, value in values.items()}
    return curve | {key: ", ".join(sorted(values)) for key, values in hashes.items()}


def _mappings(document: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings within a JSON document."""
    if isinstance(document, dict):
        yield document
    for inner in (
        document.values()
        if isinstance(document, dict)
        else document
        if isinstance(document, list)
        else ()
    ):
        yield from _mappings(inner)


def differences(case: str, base: Outcome, ours: Outcome, listed: Listed) -> dict[str, str]:
    """What differs -> how; names are those of this tree."""
    if ours.error or base.error:
        sides = (("base", base.error), ("here", ours.error))
        return {f"fails {where}": error.splitlines()[-1] for where, error in sides if error}
    found = {}
    old = {listed.rename(case, key): key for key in base.digests}
    for key in {**old, **ours.digests}:
        if key not in old or key not in ours.digests:
            found[key] = "only here" if key not in old else "only in the base"
        elif base.digests[old[key]] != ours.digests[key]:
            found[key] = "other bits"
    for key in {**base.numbers, **ours.numbers}:
        a, b = (side.numbers.get(key, "nothing") for side in (base, ours))
        if repr(a) != repr(b):
            found[key] = f"{a!r} -> {b!r}"
    return found


def report(base: Mapping[str, Outcome], ours: Mapping[str, Outcome], listed: Listed) -> bool:
    """Print a line a case; whether all is the same but what had to differ."""
    good = True
    print(f"{'verdict':18}  tensors  numbers  case")
    for name, here in ours.items():
        there = base.get(name, Outcome(error="the base has no such case"))
        found = differences(name, there, here, listed)
        why = {what: None if what == "fails here" else listed.why(name, what) for what in found}
        verdict = "DIFFERS" if None in why.values() else "differs as listed" if found else "same"
        good = good and None not in why.values()
        print(f"{verdict:18}  {len(here.digests):7}  {len(here.numbers):7}  {name}")
        shown = sorted(found, key=lambda what: why[what] is not None)[
            :8
        ]  # what is not listed first
        for what in shown:
            print(f"    {what}: {found[what]}" + (f" (listed: {why[what]})" if why[what] else ""))
        if len(found) > len(shown):
            print(f"    and {len(found) - len(shown)} more")
    return good


def machine() -> dict[str, str]:
    """What bits depend on beside the code."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    processor = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )
    packages = {
        name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn", "polars")
    }
    return {
        "processor": processor or platform.machine(),
        "python": platform.python_version(),
        **packages,
    }


def write(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Keep fingerprints: a case a line."""
    written = {
        name: json.dumps(asdict(found), separators=(",", ":")) for name, found in outcomes.items()
    }
    cases = ",\n".join(f"{json.dumps(name)}: {found}" for name, found in written.items())
    path.write_text(
        f'{{"machine": {json.dumps(machine())}, "cases": {{\n{cases}\n}}}}\n', encoding="utf-8"
    )


def read(path: Path) -> dict[str, Outcome]:
    """Fingerprints that were kept.

    Raises:
        ValueError: they are of another kind of machine, or of other versions of libraries.
    """
    kept, here = json.loads(path.read_text(encoding="utf-8")), machine()
    other = [name for name in here if kept["machine"].get(name) != here[name]]
    if other:
        raise ValueError(
            f"{path} was made with another {', '.join(other)}, where the same code may give other bits"
        )
    return {name: Outcome(**found) for name, found in kept["cases"].items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 where all is the same, 1 where something differs or failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", type=Path, default=KEPT, metavar="FILE", help="fingerprints to compare with"
    )
    parser.add_argument("--write", action="store_true", help="write the fingerprints anew")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only cases whose name has this text in it"
    )
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    parser.add_argument("--drive", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.drive:
        work, tree = chosen.drive
        drive(work, tree, chosen.only)
        return 0
    wanted = [
        name for name in CASES if not chosen.only or any(text in name for text in chosen.only)
    ]
    if not wanted:
        parser.error(f"no case has {' or '.join(chosen.only)} in its name; see --list")
    if chosen.list:
        print("\n".join(wanted))
        return 0
    base = {} if chosen.write else read(chosen.against)
    with tempfile.TemporaryDirectory(prefix="same-numbers-") as scratch:
        write_data(Path(scratch) / "cards")
        ours = run_tree(ROOT, Path(scratch) / "here", wanted)
    if chosen.write:
        write(chosen.against, ours)
        return 0
    good = report(base, ours, Listed.read(LISTED))
    print(
        "all the same"
        if good
        else "NOT THE SAME: see above; what had to differ belongs into " + LISTED.name
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
