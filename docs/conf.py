"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import recgraph

sys.path.insert(0, str(Path(__file__).parent))
import write_reference

project = "recgraph"
author = "the recgraph authors"
version = release = recgraph.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
# the notebooks are kept with their outputs: python docs/run_tutorials.py
nb_execution_mode = "off"
html_theme = "furo"
html_title = f"recgraph {version}"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# the docstrings are Google style
napoleon_numpy_docstring = False
# what a build makes of the library itself; it is not kept in git
write_reference.write(Path(__file__).with_name("generated"))
