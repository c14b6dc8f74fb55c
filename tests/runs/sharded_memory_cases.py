"""A run with a sharded table, and the largest tensor that a rank makes in it; others start it on ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import recgraph as rg
from recgraph.data.split import Split
from recgraph.ranks import Ranks
from recgraph.shards import has_shards

N_ITEMS, WIDTH = 6000, 256
TABLE = 4 * WIDTH * (N_ITEMS + 1)
SETTINGS: dict[str, Any] = {
    **{"hidden_dim": WIDTH, "n_layers": 1, "n_heads": 1, "inner_dim": 16, "dropout": 0.0, "attention_dropout": 0.0},
    **{"max_len": 8, "loss": "sampled_softmax", "n_negatives": 16},
}
TRAINING: dict[str, Any] = {"batch_size": 64, "learning_rate": 0.01, "device": "cpu", "table_optimiser": "lazy_adam"}


class Allocations(TorchDispatchMode):
    """Within the block it notes the largest memory, in bytes, behind a tensor that an operation gives.

    A part of a larger tensor counts as that, a tensor without values not at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.of = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                local = getattr(tensor, "_local_tensor", tensor)
                if local.layout is torch.strided and local.untyped_storage().nbytes() > self.largest:
                    self.largest, self.of = local.untyped_storage().nbytes(), f"{func} {list(local.shape)}"
        return made


def split() -> Split:
    """60 users with 100 or so different items each, so that the table is large and nothing else is."""
    drawn = torch.Generator().manual_seed(2)
    items = torch.cat([torch.randperm(N_ITEMS, generator=drawn), torch.randint(N_ITEMS, (300,), generator=drawn)])
    users = torch.arange(len(items)) % 60
    frame = pl.DataFrame({"u": users.numpy(), "i": items.numpy(), "t": torch.arange(len(items)).numpy()})
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t").split("leave-one-out")


def run(folder: Path, model: str = "sasrec", **training: Any) -> dict[str, Any]:
    """Train, stop, go on and evaluate; what that gave and what it took, by what was done."""
    torch.set_num_threads(1)
    data, found = split(), {}
    settings = SETTINGS if model == "sasrec" else {"hidden_dim": WIDTH}
    for name, more in {"begun": {"max_epochs": 1}, "gone on": {"max_epochs": 2, "resume": True}}.items():
        with Allocations() as allocations:
            fitted = rg.fit(
                getattr(rg.models, {"sasrec": "SASRec", "bprmf": "BPRMF"}[model])(**settings),
                data,
                seed=3,
                out=folder,
                **{**TRAINING, **more, **training},
            )
        found[name] = allocations.largest, allocations.of
    with Allocations() as allocations:
        found["valid"] = fitted.evaluate("valid")["exclude"].metrics
    found["an evaluation"] = allocations.largest, allocations.of
    found["history"] = [
        {name: value for name, value in row.items() if "seconds" not in name and "targets" not in name}
        for row in fitted.history
    ]
    found["best epoch"] = fitted.record.best_epoch
    found["n_parameters"] = fitted.record.n_parameters
    found["is sharded"] = has_shards(fitted.model)
    # after the others wait for the first rank, the bundle is there for all
    served = rg.load(folder / "bundle")
    found["weights"] = served.model.state_dict()
    found["recommended"] = fitted.recommend(users=data.sealed().interactions.users.values[:3].to_list(), k=3)
    found["ranks"] = Ranks.here()
    return found


def in_memory() -> dict[str, Any]:
    """A run without a folder: its model is whole on every rank."""
    fitted = rg.fit(rg.models.SASRec(**SETTINGS), split(), seed=3, max_epochs=1, **TRAINING, shard_tables=True)
    return {"is sharded": has_shards(fitted.model), "weights": fitted.model.state_dict()}


def all_runs(folder: Path) -> dict[str, Any]:
    return {
        "sasrec": run(folder / "sasrec", shard_tables=True),
        "bprmf": run(folder / "bprmf", "bprmf", shard_tables=True),
        "in memory": in_memory(),
    }
