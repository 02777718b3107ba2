"""
Train a prior
=============

A prior is best on the kind of images it was trained on. Here ``cae-bsd``, a prior of photographs, goes to school
for a few steps with the left half of a printed page, and then denoises the right half. A real training takes half
an hour or more, and hundreds of images: ``pyro-vble train cae --help``.

**Look at** the PSNR in the titles: the difference is what a few dozen steps on half a page of text are worth.
"""

import tempfile
from pathlib import Path

import deepinv as dinv
import skimage.data
import skimage.io
import torch

import pyro_vble as pv
from pyro_vble.figures import side_by_side
from pyro_vble.training import parse_recipe, train

page = skimage.data.page()
folder = Path(tempfile.mkdtemp())
(folder / "pages").mkdir()
skimage.io.imsave(folder / "pages" / "left.png", page[:, :256])

recipe = parse_recipe(
    {
        "kind": "cae",
        "network": {"architecture": "MeanScaleHyperprior", "N": 64, "M": 128},
        "alpha": 0.025,
        "data": {"crop": 64, "batch_size": 8, "symmetries": "none", "downscale": [1.0]},
        "schedule": {"optimiser": "adam", "steps": 60, "lr": 2e-4, "average": 0.9},
    }
)
trained = train(recipe, folder / "pages", folder / "prior", init="cae-bsd", progress=False)
print(f"after {trained.steps} steps the left half is reconstructed at {trained.evaluation.psnr:.1f} dB")

# %%
# The file that training wrote is a prior like any other.

truth = torch.from_numpy(page[32:160, 256:384].copy()).float()[None, None] / 255
physics = dinv.physics.Denoising(dinv.physics.GaussianNoise(0.15))
torch.manual_seed(0)
y = physics(truth)
pictures = {"measured": y}
for name, prior in {"photographs": "cae-bsd", "a page": trained.path}.items():
    image = pv.restore(y, physics, prior, seed=0, progress=False).mmse_x(100)
    pictures[f"prior of {name}: {pv.metrics.psnr(image, truth):.2f} dB"] = image
side_by_side(pictures | {"truth": truth})
