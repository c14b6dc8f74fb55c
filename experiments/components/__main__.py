"""The study of what the parts of the contrastive core are worth.

    python -m experiments.components search --dataset ml-100k --base sasrec --trials 8 --hours 2
    python -m experiments.components search --dataset yelp-hin --base lightgcn --like ml-100k lastfm-hin --best 5
    python -m experiments.components search --dataset lastfm-hin --base lightgcn --only "objective: barlow_twins"
    python -m experiments.components board --dataset ml-100k --base sasrec     # the best together, the board's file
    recgraph leaderboard run experiments/components --budget 2                 # trains and tests, three seeds
    python -m experiments.components report                                    # differences, tested, and the page

``search`` goes on where it stopped, and ends after ``--hours`` at the next component.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.components import page
from experiments.components.boards import board_file, write_board
from experiments.components.plan import BASES, ITSELF, Component, components
from experiments.components.report import DIFFERENCES, differences, save, saved
from experiments.components.search import best_of, search, study_record, tested, together


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.components", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["list", "search", "board", "report"])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--base", choices=list(BASES), default="sasrec")
    parser.add_argument("--trials", type=int, default=8, help="of each component, and of the base")
    parser.add_argument("--hours", type=float, default=12.0, help="begin no study after so long")
    parser.add_argument(
        "--tested", type=int, metavar="N", help="board: the N best on valid alone, and the best of each kind"
    )
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--like", nargs="+", metavar="DATASET", help="search: only what gained most on their valid parts")
    some.add_argument("--only", nargs="+", metavar="COMPONENT", help="search: these, in this order, by their titles")
    parser.add_argument("--best", type=int, default=5, help="search: how many of --like")
    parser.add_argument("--work", type=Path, default=Path("runs/components"), help="folder of the studies")
    asked = parser.parse_args(argv)
    if asked.what == "report":
        return _report()
    if asked.dataset not in BASES[asked.base].settings:
        parser.error(f"{asked.base} has no settings for {asked.dataset}: {', '.join(BASES[asked.base].settings)}")
    found = [ITSELF, *components(BASES[asked.base])]
    if asked.what == "list":
        print("\n".join(component.title for component in found))
    elif asked.what == "search":
        if asked.only:
            titles = {component.title: component for component in found}
            if missing := next((title for title in asked.only if title not in titles), None):
                parser.error(f"--only: {missing!r} is no component of {asked.base}; `list` prints their titles")
            found = [titles[title] for title in asked.only]
        elif asked.like:
            found = [ITSELF, *best_of(asked.like, asked.base, found[1:], asked.best)]
        _search(asked, found)
    else:
        _board(asked, found[1:])
    return 0


def _board(asked: argparse.Namespace, found: list[Component]) -> None:
    best = together(asked.dataset, asked.base, found)
    if asked.tested is not None:
        found = tested(asked.dataset, asked.base, found, asked.tested)
    if best is not None:
        print(f"{best.title}: {search(asked.dataset, asked.base, best, asked.trials, asked.work)}")
        found = [*found, best]
    print(write_board(asked.dataset, asked.base, found, asked.trials))


def _search(asked: argparse.Namespace, found: list[Component]) -> None:
    end = time.monotonic() + asked.hours * 3600
    for component in found:
        if time.monotonic() > end and not study_record(asked.dataset, asked.base, component).exists():
            print(f"{component.title}: not begun, {asked.hours} h are over", flush=True)
            continue
        before = time.monotonic()
        said = search(asked.dataset, asked.base, component, asked.trials, asked.work)
        print(f"{component.title}: {said} ({time.monotonic() - before:.0f} s)", flush=True)


def _report() -> int:
    pairs = [(dataset, base) for base in BASES for dataset in BASES[base].settings]
    try:
        save(differences((pair for pair in pairs if board_file(*pair).exists()), before=saved()))
    except FileNotFoundError as error:
        print(f"{error}; {DIFFERENCES} stays as it is", file=sys.stderr)
    page.write()
    print(f"written to {page.PAGE}, with {DIFFERENCES}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
