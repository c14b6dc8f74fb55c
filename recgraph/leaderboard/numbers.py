"""The numbers of a data set's records as one long frame, their means over seeds, and what they cost."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from recgraph.leaderboard.compare import MARKS, Comparison, Mark, Records
from recgraph.leaderboard.plan import Record, Repeat, fold_of, mean_of, repeat_of, seed_of

#: one row for each number: ``kind`` is ``score``, ``group`` (of users), ``cost`` or ``epoch`` (the metric that selected
#: the weights, by epoch); ``table`` is the title of a protocol; columns that do not apply are empty
SCHEMA = {
    "entry": pl.String,
    "fold": pl.Int64,
    "seed": pl.Int64,
    "kind": pl.String,
    "table": pl.String,
    "group_kind": pl.String,
    "group": pl.String,
    "metric": pl.String,
    "epoch": pl.Int64,
    "value": pl.Float64,
}
#: entry, table, group kind, group, metric
Key = tuple[str, str, str, str, str]
#: what a core at work is taken to draw, as a server's processor of 200 to 280 W has 24 to 64 of them; and memory, as
#: codecarbon has it, 3 W for 8 GiB
WATTS_PER_CORE, WATTS_PER_GIB = 10.0, 0.375
#: cost of one seed: wall-clock and CPU seconds (training includes building the model; inference is one pass over all
#: test cases, or the probes of a node task), the estimated watt hours of training, the peak memory of the process in
#: MiB, the number of parameters, and the number of epochs
COSTS = (
    *("training_seconds", "training_cpu_seconds", "training_wh", "inference_seconds", "inference_cpu_seconds"),
    *("peak_memory_mb", "n_parameters", "epochs"),
)

_ABBREVIATIONS = {"ndcg", "mrr", "map", "auc", "nmi", "ari", "rbp", "dcg", "ncrr", "f1"}
_HASH = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True)
class Number:
    """A score or cost of an entry over seeds (and folds), or a metric of a group of users.

    A score that is compared has a mark, and ``versus``: the column's best entry less this one.
    """

    by_seed: Mapping[Repeat, float]
    mark: Mark = ""
    versus: tuple[Comparison, ...] = ()

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        return mean_of(self.by_seed)

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for one seed, NaN where a value is not finite."""
        if self.n < 2:
            return None
        # statistics itself fails on these
        return statistics.stdev(self.by_seed.values()) if math.isfinite(self.mean) else math.nan

    @property
    def sign(self) -> str:
        return MARKS[self.mark][0] if self.mark else ""

    def text(self, digits: int = 4) -> str:
        """``0.0551 ± 0.0003``, without the deviation where there is one seed."""
        sd = "" if self.sd is None else f" ± {self.sd:.{digits}f}"
        return f"{self.mean:.{digits}f}{sd}"


def frame_of(records: Records) -> pl.DataFrame:
    """All numbers of the records, by the names of their entries, see ``SCHEMA``."""
    rows = [
        (name, fold_of(repeat), seed_of(repeat), *row)
        for name, by_seed in records.items()
        for repeat, record in by_seed.items()
        for row in _rows(record)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _rows(record: Record) -> Iterator[tuple[Any, ...]]:
    for table, scores in record["scores"].items():
        for metric, value in scores.items():
            yield "score", table, "", "", metric, None, float(value)
    for kind, tables in record.get("groups", {}).items():
        for table, groups in tables.items():
            for group, values in groups.items():
                for metric, value in values.items():
                    yield "group", table, kind, group, metric, None, None if value is None else float(value)
    for name, cost in _costs(record).items():
        if cost is not None:
            yield "cost", "", "", "", name, None, cost
    metric, curve = record["training"]["selected_by"], record["curve"]
    for epoch, value in zip(curve.get("epoch", ()), curve.get(metric, ()), strict=False):
        if value is not None:
            yield "epoch", "", "", "", metric, epoch, float(value)


def numbers_of(frame: pl.DataFrame) -> dict[Key, Number]:
    """Scores, costs and metrics of groups over seeds, in the order of the frame."""
    kept = frame.filter((pl.col("kind") != "epoch") & pl.col("value").is_not_null())
    keys = ("entry", "table", "group_kind", "group", "metric")
    grouped = kept.group_by(keys, maintain_order=True).agg("fold", "seed", "value")
    return {row[:5]: Number(dict(zip(map(repeat_of, *row[5:7]), row[7], strict=True))) for row in grouped.iter_rows()}


def _costs(record: Record) -> dict[str, float | None]:
    """The costs of one seed, in the order of ``COSTS``; None where there is none.

    The watt hours are an estimate; of a training on an accelerator, whose energy CPU time does not tell, there is none.
    """
    training, inference = record["training"], record["inference"]
    watts = WATTS_PER_CORE + WATTS_PER_GIB * float(record["peak_memory_mb"]) / 1024
    wh = watts * float(training["cpu_seconds"]) / 3600 if device_of(record).startswith("cpu") else None
    costs = (
        *(float(training["seconds"]), float(training["cpu_seconds"]), wh),
        *(float(inference["seconds"]), float(inference["cpu_seconds"])),
        *(float(record["peak_memory_mb"]), float(record["n_parameters"]), float(training["epochs"]) or None),
    )
    return dict(zip(COSTS, costs, strict=True))


def device_of(record: Record) -> str:
    """Where a record was made; ``auto`` was the accelerator, if the machine had one."""
    device = str(record.get("device", "cpu"))
    if device != "auto":
        return device
    return "cuda" if record["provenance"]["cuda"] else "cpu"


def metric_name(metric: str) -> str:
    """``NDCG@10`` of ``ndcg@10``, ``Macro F1`` of ``macro_f1``."""
    name, at, cutoff = metric.partition("@")
    text = " ".join(part.upper() if part in _ABBREVIATIONS else part for part in name.split("_"))
    return f"{text[:1].upper()}{text[1:]}{at}{cutoff}"


def short_hash(text: str) -> str:
    """The text with long hashes cut to 12 digits."""
    return _HASH.sub(lambda found: found[0][:12], text)
