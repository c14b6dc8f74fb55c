"""RePlay's SASRec under Lightning's trainer: full softmax, or sampled with negatives that the batch
shares.

The current classes of RePlay (``replay.nn``), put together as its documentation does. Batches are
padded in memory before the measurement, which costs RePlay less than its own readers would.
"""

from __future__ import annotations

from typing import Any

import beauty
import lightning
import torch
from beauty import counting_trainer
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.loss import CESampled
from replay.nn.sequential import SasRec


def schema(n_items: int) -> TensorSchema:
    item = TensorFeatureInfo(
        "item_id",
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=64,
        padding_value=n_items,
        cardinality=n_items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    )
    return TensorSchema([item])


def padded(rows: list[list[int]], n_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets [users, 50], padded on the left with ``n_items``; items from 0."""
    shape = (len(rows), beauty.MAX_LEN)
    inputs, targets = torch.full(shape, n_items), torch.full(shape, n_items)
    for place, row in enumerate(rows):
        items = torch.tensor(row) - 1
        if len(items) > 1:
            inputs[place, -(len(items) - 1) :] = items[:-1]
            targets[place, -(len(items) - 1) :] = items[1:]
    return inputs, targets


def loader(
    path: str, n_items: int, batch_size: int, n_negatives: int
) -> torch.utils.data.DataLoader[Any]:
    inputs, targets = padded(beauty.training(path), n_items)

    def batch(users: list[int]) -> dict[str, Any]:
        rows = torch.tensor(users)
        made = {
            "feature_tensors": {"item_id": inputs[rows]},
            "padding_mask": inputs[rows] != n_items,
            "positive_labels": targets[rows].unsqueeze(-1),
            "target_padding_mask": (targets[rows] != n_items).unsqueeze(-1),
            "negative_labels": None,
        }
        if n_negatives:
            made["negative_labels"] = torch.randperm(n_items)[:n_negatives]
        return made

    users: Any = range(len(inputs))
    return torch.utils.data.DataLoader(
        users, batch_size, shuffle=True, collate_fn=batch, num_workers=0
    )


def prepare(options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    n_items, n_negatives = beauty.n_items(options["data"]), options["n_negatives"]
    model = SasRec.from_params(
        schema(n_items),
        embedding_dim=64,
        num_heads=2,
        num_blocks=2,
        max_sequence_length=beauty.MAX_LEN,
        dropout=0.5,
    )
    if n_negatives:
        model.loss = CESampled(ignore_index=n_items)
        model.loss.logits_callback = model.get_logits
    module = LightningModule(model)
    batches = loader(options["data"], n_items, options["batch_size"], n_negatives)

    def run(steps: int) -> dict[str, float]:
        trainer, counts = counting_trainer(
            lightning, lambda batch: batch["target_padding_mask"], steps
        )
        trainer.fit(module, batches)
        return counts

    return run
