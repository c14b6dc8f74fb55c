"""Write docs/metrics.md from the metrics themselves: ``python docs/write_metrics.py`` (a test says when to)."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import polars as pl

from recgraph import registry
from recgraph.evaluate import frame
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.conventions import LIBRARIES
from recgraph.evaluate.protocol import CONVENTIONS, Convention

PAGE = Path(__file__).with_name("metrics.md")
#: MovieLens 100k, a random 80 / 10 / 10 split: what EASE lists for user 538, seen films excluded, and the test part
LISTED = [357, 202, 7, 318, 204]
RELEVANT = [273, 202, 318, 215, 204, 712, 22, 42]
SHOWN = ("precision", "recall", "hit_rate", "mrr", "map", "ndcg", "dcg", "f1", "rbp", "r_precision", "ncrr")

HEAD = """\
# Metrics

The same name means different things in different libraries. recgraph has one definition of its own for each metric, and
the others' as *conventions*: `evaluate(..., convention="lenskit")`, `rg.evaluate.frame(..., convention="ranx")`. The
convention is part of the [protocol](protocol.md), so numbers of two conventions cannot be compared by mistake. What is
said here is tested: `make reference` recomputes 14,359 values that the nine libraries gave, to 1e-6.

(This page is written by `python docs/write_metrics.py` from the code.)

## Names and cut-offs

A metric is written in lower case with `_`, as `catalogue_coverage`; `CatalogueCoverage` and `catalogue-coverage` are
read as the same, and `coverage`, `popularity` and `diversity` are short for `catalogue_coverage`, `average_popularity`
and `intra_list_diversity`. An unknown name is an error with the nearest ones. `ndcg@10` is a metric at one cut-off,
wherever metrics are named; in an evaluation `ndcg` alone is the metric at each cut-off of the protocol.

| where | how |
| --- | --- |
| Python | `run.evaluate(metrics=("ndcg@10", "coverage@20", "novelty@5"))`, `rg.evaluate.evaluate`, `frame`, `matrix` |
| command | `recgraph evaluate RUN -m ndcg@10 -m coverage@20 -m my_metric` |
| training | `--set metric=coverage@20` selects the best epoch |
| tuning | `recgraph tune MODEL -m ndcg@10 -m novelty@10`, `rg.tune(..., metric=("ndcg@10", "novelty@10"))` |
| a board | `metrics = ["ndcg@10", "gini@20"]` |

All metrics of the library and [your own](add/metric.md) are there, but for two kinds. Those of the diversity of lists
need features of items, which `rg.evaluate.evaluate`, `frame` and `matrix` alone take (`features=`). A metric of which
less is better (`gini`, `average_popularity`) selects no epoch. A cut-off may lie beyond the last item of the catalogue:
the list ends there, and takes no more memory.

"""
LIST = """\
## One list under all conventions

MovieLens 100k, split at random. The first five films that EASE lists for user 538 are {listed};
{hits} are among the {n} test films of the user. This list has these values at 5:

"""
FEWER = """
With film 318 as the only relevant one, the same list has these:

"""
CONVENTION_NOTE = """
A dash: the library has no such metric, or not of lists alone (Cornac's MAP ranks all candidates: under `cornac` it
is `map`, and `map@10` is refused). R-precision has no cut-off: it looks at as many places as there are relevant items,
and finds five.

"""
USERS = """\
## Users without relevant items

Under {counted} such a user counts as 0; elsewhere the user is left out of the mean.
Under `lenskit` a user without a value (an empty list, for precision) counts as 0 in the mean; under `cornac` the mean
is NaN as soon as a user with relevant items has none.

## Definitions

k is the cut-off; a hit is a listed item that is relevant. A convention is a set of options
(`recgraph/evaluate/metrics/conventions.py`): those that differ from the default ones are given in brackets, and each
can be chosen by itself, `NDCG(discount="late")`. A metric is not defined under conventions that are not listed.

"""


def metrics() -> list[type[Metric]]:
    """All metrics, by name."""
    return [registry.load("metric", name) for name in registry.names("metric")]


def definition(metric: type[Metric]) -> str:
    """A section from the docstring, its options as a list."""
    text = inspect.cleandoc(metric.__doc__ or "")
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    text = re.sub(r"\|(\w+)\|", r"\\|\1\\|", text).replace(" _", " \\_")
    said, _, own = text.partition("\nAttributes:\n")
    items = [*_options(own), *(item for base in metric.__mro__[1:] if base is not Metric for item in _of_base(base))]
    if items:
        said = said.rstrip() + "\n\nOptions:\n\n" + "\n".join(items) + "\n"
    under = ", ".join(_convention(metric, name) for name in metric.conventions)
    return f"### `{metric.name}`\n\n{said.strip()}\n\nDefined under {under}.\n"


def _convention(metric: type[Metric], name: Convention) -> str:
    """A convention with the options that it sets."""
    options, own = LIBRARIES[name].metrics.get(metric.name, {}), {field.name for field in fields(metric)}
    said = [f"{option}={value}" for option, value in options.items() if option in own]
    if options.get("positive_scores_only"):
        said.append("items with a score of 0 or less are irrelevant")
    return f"`{name}`" + (f" ({', '.join(said)})" if said else "")


def _of_base(base: type) -> list[str]:
    """The options that a base of some metrics has."""
    text = inspect.cleandoc(base.__doc__ or "") if issubclass(base, Metric) else ""
    return _options(text.replace("``", "`").partition("\nAttributes:\n")[2])


def _options(text: str) -> list[str]:
    """The entries of a docstring's section, each a line of a list."""
    items = re.split(r"\n(?=    \w)", "\n" + text.rstrip())[1:]
    named = [" ".join(item.split()).partition(": ") for item in items]
    return [f"- `{name}`: {meaning}" for name, _, meaning in named]


def values(convention: Convention, relevant: list[int]) -> dict[str, float]:
    """The values of the list."""
    listed = pl.DataFrame({"user_id": 538, "item_id": LISTED, "score": range(len(LISTED), 0, -1)})
    truth = pl.DataFrame({"user_id": 538, "item_id": relevant})
    wanted = [name for name in SHOWN if convention in registry.load("metric", name).conventions]
    if convention == "cornac":  # it has no cut-off there: it ranks all candidates, which a list does not hold
        wanted.remove("map")
    found = frame(listed, truth, score="score", n_items=1682, cutoffs=(5,), metrics=wanted, convention=convention)
    return found.metrics


def scored(relevant: list[int]) -> str:
    """The table of the list: a row a metric, a column a convention."""
    of = {convention: values(convention, relevant) for convention in CONVENTIONS}
    lines = ["| metric | " + " | ".join(CONVENTIONS) + " |", "| --- " * (len(CONVENTIONS) + 1) + "|"]
    for name in SHOWN:
        found = [of[convention].get(f"{name}@5", of[convention].get(name)) for convention in CONVENTIONS]
        lines.append(f"| `{name}` | " + " | ".join("–" if one is None else f"{one:.4f}" for one in found) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    versions = "| convention | follows |\n| --- | --- |\n"
    versions += "".join(f"| `{name}` | {library.version} |\n" for name, library in LIBRARIES.items() if library.version)
    counted = ", ".join(f"`{name}`" for name in CONVENTIONS if LIBRARIES[name].no_truth == 0)
    hits = [item for item in LISTED if item in RELEVANT]
    listed = LIST.format(listed=", ".join(map(str, LISTED)), hits=", ".join(map(str, hits)), n=len(RELEVANT))
    sections = "\n".join(definition(metric) for metric in metrics())
    text = (
        HEAD
        + versions
        + "\n"
        + listed
        + scored(RELEVANT)
        + CONVENTION_NOTE
        + FEWER.lstrip()
        + scored([318])
        + "\n"
        + USERS.format(counted=counted)
        + sections
    )
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
