"""Settings of the documentation site; ``sphinx-build -W --keep-going docs build/docs`` builds it."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# The gallery computes in this process; more threads than cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from sphinx_gallery.sorting import ExplicitOrder

import pyro_vble

project = "pyro-vble"
author = "The pyro-vble authors"
project_copyright = author
version = release = pyro_vble.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "plain_docstrings",
]
exclude_patterns = ["gallery/*", "README.md"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"pyro-vble {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
toc_object_entries = False  # with every method in it, the tree of pages takes most of the build

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autosummary_generate = True
autosummary_imported_members = True
# Classes that two packages offer have one page.
autosummary_context = {
    "homes": {
        "pyro_vble.inference.FitDivergedError": "pyro_vble.FitDivergedError",
        "pyro_vble.samples.Posterior": "pyro_vble.Posterior",
        "pyro_vble.scene.ScenePosterior": "pyro_vble.ScenePosterior",
        "pyro_vble.diagnostics.ReferencePosterior": "pyro_vble.samples.ReferencePosterior",
    }
}
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the annotations hold the rules of arguments; the docstrings say them in words
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {
    "exclude-members": "model_config, training, arg_constraints, support, has_rsample, model_post_init, call_super_init"
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# A role in a docstring must find what it names, if that is ours.
nitpicky = True
nitpick_ignore = [("py:class", "pyro_vble.io.rasters.Raster"), ("ref.ref", "physics_combining")]
nitpick_ignore_regex = [
    (r"py:.*", r"(?!pyro_vble).*"),
    # The parts of the benchmark's file of settings, which its own page tells of.
    (r"py:class", r"pyro_vble\.benchmark\.(problems|settings)\..*"),
]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
linkcheck_anchors = False

_GALLERY = [
    "denoise",
    "deblur",
    "super_resolve",
    "inpaint",
    "unknown_noise_and_blur",
    "mri",
    "satellite_scene",
    "pansharpen",
    "train_a_prior",
    "calibrate",
    "compare",
    "error_budget",
]
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"plot_",
    "within_subsection_order": ExplicitOrder([f"plot_{name}.py" for name in _GALLERY]),
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "remove_config_comments": True,
    "ignore_repr_types": r"matplotlib\.figure\.Figure",
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "min_reported_time": 0,
    "plot_gallery": True,
    "reset_modules": ("matplotlib",),
    "copyfile_regex": r".*\.(rst|md)",
    "doc_module": ("pyro_vble",),
    "backreferences_dir": "auto_gallery/backreferences",
}
suppress_warnings = ["config.cache", "ref.ref"]  # the order of the gallery is an object, which Sphinx cannot keep
