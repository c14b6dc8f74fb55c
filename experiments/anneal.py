"""Train a finished run further in another regime or at another learning rate, and write a record.

    python experiments/anneal.py RUN OUT RECORD --set learning_rate=0.0002 --set regime=causal

Starts from the weights that RUN selected on validation data, with the run's data, model and seed; only the settings
given are changed. A killed process goes on from OUT's newest checkpoint. The test part is opened once, at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file

from recgraph import registry
from recgraph.config import distribute
from recgraph.evaluate import evaluate
from recgraph.files import write_text
from recgraph.models.base import Space
from recgraph.rng import Generators
from recgraph.config import parse_settings
from recgraph.train.callbacks import JsonLines
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.record import provenance
from recgraph.train.settings import DataConfig
from recgraph.train.trainer import Trainer


def main() -> None:
    """The second stage of a training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "out", "record"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    first = json.loads((given.run / "record.json").read_text(encoding="utf-8"))
    cls = registry.load("model", first["model"])
    changed = distribute(parse_settings(given.set), {"model": cls.Config, "training": TrainConfig})
    config = TrainConfig.of({**first["training"], **changed["training"]})
    split = DataConfig.of(first["data"]["settings"]).split_of(first["data"]["dataset"])
    sealed = split.sealed()
    model = cls(**{**first["config"], **changed["model"]}).build(
        Space(n_users=split.n_users, n_items=split.n_items), first["seed"]
    )
    model.load_state_dict(load_file(given.run / "best.safetensors"))
    accelerator = make_accelerator("cpu")
    generators = Generators(first["seed"], accelerator.device)
    batches = model.batches(sealed.train, config.batch_size, generators)
    given.out.mkdir(parents=True, exist_ok=True)

    def validate() -> dict[str, float]:
        return evaluate(model, sealed.valid, seen=(config.select_seen,))[0].metrics

    trainer = Trainer(model, batches, config, generators, validate, given.out, accelerator=accelerator)
    trainer.resume()
    trainer.observers = [JsonLines(given.out / "log.jsonl", trainer.progress.history)]
    history = trainer.fit()
    record = {
        **first,
        "first_stage": {
            name: first[name] for name in ("config", "training", "history", "best_epoch", "cost", "results")
        },
        "config": model.config.model_dump(mode="json"),
        "training": config.model_dump(mode="json"),
        "history": history,
        "best_epoch": trainer.stopping.best_epoch,
        "best": trainer.stopping.best,
        "cost": {"seconds": trainer.progress.seconds, "cpu_seconds": trainer.progress.cpu_seconds},
        "provenance": provenance(),
        "results": {},
    }
    for part, seen_at_test in (("valid", "train"), ("test", "train+valid")):
        cases = sealed.valid if part == "valid" else sealed.unseal("annealed, selected on valid").test
        results = evaluate(model, cases, split=split, part=part, fitted_on="train", history=seen_at_test)
        record["results"][part] = results.to_dict()
        print(f"{part}\n{results}")
    record["unsealed"] = list(sealed.unsealed_reasons)
    write_text(json.dumps(record, indent=1), given.record)


if __name__ == "__main__":
    main()
