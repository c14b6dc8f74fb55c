"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import docutils.nodes
import latex2mathml.converter

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
smartquotes = False  # an option keeps both of its dashes
# the notebooks are kept with their outputs: python docs/run_tutorials.py
nb_execution_mode = "off"
html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"recgraph {version}"
html_static_path = ["_static"]
html_css_files = ["recgraph.css"]
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# the docstrings are Google style
napoleon_numpy_docstring = False


def _equation(translator: Any, node: Any) -> None:
    display = "inline" if isinstance(node, docutils.nodes.math) else "block"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise docutils.nodes.SkipNode


def setup(app: Any) -> None:
    """Equations are MathML, which browsers draw without a script from the network."""
    app.add_html_math_renderer("mathml", (_equation, None), (_equation, None))


# what a build makes of the library itself; it is not kept in git
write_reference.write(Path(__file__).with_name("generated"))
