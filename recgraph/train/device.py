"""The accelerator of a run: device and precision, through HF Accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState


def make_accelerator(device: str | None = None, precision: str = "no") -> Accelerator:
    """An accelerator for one run.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or None for the best there is.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        ValueError: the device is not there.
    """
    here = {
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    }
    if device is not None and device not in here:
        raise ValueError(f"device = {device!r} is not there; this machine has {', '.join(sorted(here))}")
    # Accelerate keeps one state a process and refuses another device or precision; each run makes its own
    if AcceleratorState._shared_state and not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=device == "cpu")
