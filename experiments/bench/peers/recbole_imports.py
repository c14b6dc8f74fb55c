"""Lets RecBole 1.2.1 be imported with the numpy of today. Import it before ``recbole``."""

from __future__ import annotations

import numpy as np

# names that numpy has dropped and RecBole still reads while it is imported
for alias, kind in {"float": float, "int": int, "bool": bool, "object": object, "long": int}.items():
    if alias not in vars(np):
        setattr(np, alias, kind)
