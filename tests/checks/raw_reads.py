"""The static check of reading: files that others may have made are read by ``recgraph.bounded`` alone.

Fails on a call of a parser or unpacker elsewhere in the library, unless the file is listed here with the reason.
Run by ``make lint`` and by tests/bounded/test_raw_reads.py.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = "bounded"
#: a function by the last two parts of its name, or by its own name where it may be imported bare
CALLS = {
    *("json.load", "json.loads", "tomllib.load", "tomllib.loads", "yaml.load", "yaml.safe_load"),
    *("np.load", "numpy.load", "sp.load_npz", "load_npz", "torch.load", "joblib.load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "shelve.open", "marshal.loads"),
    *("pl.read_parquet", "pl.read_parquet_schema", "pl.read_parquet_metadata", "pl.scan_parquet", "pl.read_ipc"),
    *("gzip.open", "gzip.decompress", "bz2.open", "bz2.decompress", "lzma.open", "lzma.decompress", "zlib.decompress"),
    *("zipfile.ZipFile", "ZipFile", "tarfile.open", "shutil.unpack_archive"),
    *("safe_open", "load_file", "parse_tensors", "safetensors.torch.load", "safetensors.torch.load_file"),
}
# file below recgraph/ -> what it may call, with the reason beside it
ALLOWED: dict[str, set[str]] = {
    "data/diagnose.py": {"json.loads", "pl.scan_parquet"},  # logs of a user's own, in streams
    "data/imprint.py": {"json.loads"},  # values of this process, made plain
    "data/packing.py": {"gzip.open", "bz2.open", "lzma.open"},  # bounded there
    "data/preparing.py": {"pl.read_parquet", "pl.scan_parquet"},  # what a stage has written
    "data/readers.py": {"pl.scan_parquet"},  # logs of a user's own, in streams, that check_frame has seen
    "data/source.py": {"pl.scan_parquet"},  # the number of rows of such a log
    "ranks.py": {"pickle.loads"},  # whether an error of this process can be sent
    "runs/record.py": {"json.loads"},  # values of this process, made plain
    "serve/http/asked.py": {"json.loads"},  # a request, whose body is bounded before
    "setting_texts.py": {"json.loads", "tomllib.loads"},  # a value of --set
    "train/trackers.py": {"json.loads"},  # values of this process, made plain
    "train/checkpoint.py": {"safe_open"},  # rows of a file whose head was read within bounds
    "tuning/options.py": {"json.loads"},  # values of this process, made plain
    "tuning/study.py": {"json.loads"},  # values of this process, made plain
    "workers/lock.py": {"json.loads"},  # a line that a holder of the lock wrote
    "workers/pool.py": {"json.load"},  # orders from the parent process
    "workers/records.py": {"json.loads"},  # log records of a worker
    "workers/together.py": {"json.loads"},  # answers of ranks
}


def offences(source: str) -> Iterator[tuple[int, str]]:
    """The line and the name of each call in a source text that reads by itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = ast.unparse(node.func)
            found = {name, ".".join(name.split(".")[-2:])} & CALLS
            if found:
                yield node.lineno, min(found)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield node.value.lineno, "allow_pickle"


def check(root: Path = ROOT) -> list[str]:
    """One line for each offence, ``file:line: what``, and for each permission that nothing needs."""
    found, package = [], root / "recgraph"
    unused = {name: set(calls) for name, calls in ALLOWED.items()}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name.split("/")[0] == OWN:
            continue
        for line, what in offences(path.read_text(encoding="utf-8")):
            unused.get(name, set()).discard(what)
            if what not in ALLOWED.get(name, set()):
                found.append(f"recgraph/{name}:{line}: {what} reads without bounds; use a reader of recgraph.bounded")
    return found + [f"recgraph/{name}: {what} is allowed and not called" for name in unused for what in unused[name]]


if __name__ == "__main__":
    problems = check()
    print("\n".join(problems) or "all files are read by recgraph.bounded")
    sys.exit(bool(problems))
