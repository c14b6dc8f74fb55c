"""The published MCLRec weights for Amazon Beauty as a run, for the commands that take one.

    python -m experiments.published_run runs/published-beauty
    recgraph evaluate runs/published-beauty

The weights and the log lie in the shared folder (``RECGRAPH_SHARED``); the data set is prepared if it is not yet.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.reference import SHARED, beauty_model
from recgraph.data import catalog
from recgraph.train.config import TrainConfig
from recgraph.train.record import RunRecord, provenance
from recgraph.train.run import Run
from recgraph.train.settings import DataConfig

DATASET = "amazon-beauty"


def main(out: Path) -> None:
    """Write the folder of the run.

    Raises:
        ValueError: ``out`` exists.
    """
    if out.exists():
        raise ValueError(f"{out} exists; give a new folder")
    catalog.get(DATASET, SHARED / "data" / "sequences" / "Amazon_Beauty.txt")
    data = DataConfig()
    split = data.split_of(DATASET)
    model = beauty_model(split, SHARED / "golden" / "mclrec_beauty_weights.npz")
    out.mkdir(parents=True)
    record = {
        "model": model.key(),
        "model_revision": model.revision,
        "config": model.config.model_dump(mode="json"),
        "training": TrainConfig().model_dump(mode="json"),
        "seed": 0,
        "fitted_on": "published",
        "data": {
            "dataset": DATASET,
            "settings": data.model_dump(mode="json"),
            "split": split.name,
            "split_params": split.params,
            "split_hash": split.hash,
            "n_users": split.n_users,
            "n_items": split.n_items,
        },
        "init_items": None,
        "history": [],
        "results": {},
        "unsealed": [],
        "provenance": provenance(),
    }
    run = Run(model, split.sealed(), RunRecord(**record), out)
    run.save(out / "bundle")
    run.write_record()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
