"""The site: `python -m sphinx -W -b html docs docs/_build/html` writes it, every warning an error."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

from docutils import nodes

import ftp_optax
from ftp_optax import _averaged, _inspect, _tpgm, _units

project = "ftp_optax"
author = "The ftp_optax authors"
copyright = author
version = release = ftp_optax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",  # equations need no other server, so that the site can be read anywhere
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

html_theme = "furo"
pygments_dark_style = "github-dark"  # furo's own underlines the names of modules, as if they were links
html_title = f"ftp_optax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
# Links to the repository and to edit a page, once pyproject.toml names it: the one place where the address is.
urls = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"].get("urls", {})
if "Repository" in urls:
    html_theme_options = {
        "source_repository": urls["Repository"],
        "source_branch": "main",
        "source_directory": "docs/",
    }
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook keeps its outputs; tests/test_docs.py runs it anew
nb_merge_streams = True

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_typehints = "none"  # `source_signature` has them, by their short names
autosummary_generate = False  # the tables link to the pages that are there
python_maximum_signature_line_length = 88
default_role = "py:obj"
smartquotes_action = "qe"  # a flag keeps its two hyphens

# Where other libraries document their names. Without a network their names are no links, by an inventory that is empty.
intersphinx_mapping = {
    name: (url, (None, "offline_inventory.txt"))
    for name, url in {
        "python": "https://docs.python.org/3/",
        "jax": "https://docs.jax.dev/en/latest/",
        "optax": "https://optax.readthedocs.io/en/latest/",
        "flax": "https://flax.readthedocs.io/en/latest/",
    }.items()
}
intersphinx_timeout = 5

# A reference that leads nowhere is an error, unless it is to another library or to a word of the text around it.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(jax|jnp|optax|nnx|flax|collections|typing)\b.*"),
    (r"py:.*", r"(init|update|state|[a-zA-Z])"),
]


# What a signature shows in place of the package's own names of types.
ALIASES = {
    "UnitAxes": _units.UnitAxes,
    "LayerAxes": _units.LayerAxes,
    "Kind": _averaged.Kind,
    "Norm": _tpgm.Norm,
    "Number": _inspect.Number,
}


def source_signature(app, what, name, function, *_):
    """A function's signature as its source has it: the short names of types, and defaults that are no reprs."""
    if what != "function":
        return None
    (node,) = ast.parse(inspect.getsource(inspect.unwrap(function))).body
    spelled = lambda match: re.sub(r"\b(collections\.abc|typing)\.", "", str(ALIASES[match[1]]))
    shown = lambda text: re.sub(r"\b_\w+\.(?=\w)", "", re.sub(rf"\b({'|'.join(ALIASES)})\b", spelled, text))
    return f"({shown(ast.unparse(node.args))})", shown(ast.unparse(node.returns))


def mark_short_code(app, doctree):
    """Marks the code whose words all fit a phone's line, so that site.css can keep them in one piece."""
    for literal in doctree.findall(nodes.literal):
        if all(len(word) <= 32 for word in literal.astext().split()):
            literal["classes"].append("short")


def setup(app):
    app.connect("autodoc-process-signature", source_signature)
    app.connect("doctree-read", mark_short_code)
