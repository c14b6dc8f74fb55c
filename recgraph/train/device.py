"""Where a run computes: the device, and the precision through HF Accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState


def pick_device(device: str | None = None) -> torch.device:
    """The device of that name.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None: ``"cuda"`` where there is one, else ``"cpu"``.
            ``"mps"`` is never picked, as it lacks the float64 that views and sampled losses draw with.

    Raises:
        ValueError: the device is not there.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = [
        "cpu",
        *(["cuda"] if n_gpus else []),
        *(f"cuda:{index}" for index in range(n_gpus)),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
    if device is not None and device not in here:
        raise ValueError(f"device = {device!r} is not there; this machine has {', '.join(here)}")
    return torch.device(device or ("cuda" if n_gpus else "cpu"))


def make_accelerator(device: str | None = None, precision: str = "no") -> Accelerator:
    """An accelerator for one run.

    Args:
        device: as :func:`pick_device` has it.
        precision: ``"no"`` or ``"bf16"``.

    Raises:
        ValueError: the device is not there.
    """
    picked = pick_device(device)
    # Accelerate keeps one state a process and refuses another device or precision; each run makes its own
    if AcceleratorState._shared_state and not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=picked.type == "cpu")
    if picked.index is not None:  # Accelerate itself knows "the GPU of this process" alone
        accelerator.state.device = picked
    return accelerator
