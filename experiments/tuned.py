"""The record of a study, for ``experiments/results``: what was asked, every trial, the test of the best one.

python experiments/tuned.py runs/tuned experiments/results/tune-mclrec-ml-100k.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from recgraph.files import write_text
from recgraph.tuning.storage import find_study


def record(folder: Path) -> dict[str, Any]:
    """A study's record from its folder."""
    with find_study(str(folder)) as (study, _):
        trials = [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "values": trial.values,
                "params": trial.params,
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                "epochs": len(trial.intermediate_values),
                "reason": trial.user_attrs.get("reason", ""),
                "goes_on_with": trial.system_attrs.get("failed_trial"),
            }
            for trial in study.trials
        ]
        told = {name: study.user_attrs.get(name) for name in ("recgraph", "asked", "source", "unsealed")}
        told |= {"study": study.study_name, "trials": trials}
    return told | {"last_trainings": list(last_trainings(folder))}


def last_trainings(folder: Path) -> list[dict[str, Any]]:
    """Each of the trainings that were tested."""
    found = []
    for path in sorted(folder.glob("final/*/*/record.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        metrics = {"valid": run.get("best"), "test": run["results"]["test"]}
        kept = {name: run.get(name) for name in ("seed", "config", "training", "best_epoch", "cost", "provenance")}
        found.append({"of": path.parts[-3], **kept, "epochs": len(run["history"]), **metrics})
    return found


if __name__ == "__main__":
    write_text(json.dumps(record(Path(sys.argv[1])), indent=1) + "\n", Path(sys.argv[2]))
