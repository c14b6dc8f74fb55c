"""What the published code of MEOW and MCLRec computes, of tests/golden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def golden_of(name: str) -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}
