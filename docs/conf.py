"""The site: `python -m sphinx -W -b html docs docs/_build/html` writes it, every warning an error."""

import ftp_optax

project = "ftp_optax"
author = "The ftp_optax authors"
copyright = author
version = release = ftp_optax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",  # equations need no other server, so that the site can be read anywhere
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = "ftp_optax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook keeps its outputs; tests/test_docs.py runs it anew
nb_merge_streams = True

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_typehints = "none"  # the prose of Args says them
autodoc_preserve_defaults = True  # optax.adam(1e-2), not the object's repr
python_maximum_signature_line_length = 88
default_role = "py:obj"

# A reference that leads nowhere is an error, unless it is to another library or to a word of the text around it.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(jax|jnp|optax|nnx|flax|collections|typing)\b.*"),
    (r"py:.*", r"(init|update|state|[a-zA-Z])"),
]


def setup(app):
    """Signatures name the public rules, not the rooms that they live in."""
    app.connect("autodoc-process-signature", lambda *event: (event[5] and event[5].replace("_units.", ""), event[6]))
