"""Configuration of the documentation: Sphinx, MyST, furo."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

# autodoc rewrites the annotations of pydantic itself: models have to be made before.
import hepset.run  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "hepset"
author = "The hepset developers"
copyright = "2026, the hepset developers"
release = version = installed_version("hepset")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "hepset_models",
]
html_theme = "furo"
html_title = f"hepset {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = False
suppress_warnings = ["ref.python"]
