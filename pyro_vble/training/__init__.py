"""Training priors: the models under their own encoders as guides, by maximising the ELBO."""

from pyro_vble._deprecated import moved
from pyro_vble.training.crops import RandomCrops
from pyro_vble.training.data import ImageSet, read_images
from pyro_vble.training.evaluation import Evaluation, VarianceRatios, calibration, evaluate
from pyro_vble.training.loop import TrainingDivergedError
from pyro_vble.training.objective import NegativeELBO
from pyro_vble.training.recipes import (
    CAERecipe,
    DecoderStdRecipe,
    Recipe,
    VAERecipe,
    available_recipes,
    load_recipe,
    parse_recipe,
)
from pyro_vble.training.training import TrainingResult, train

__all__ = [
    "CAERecipe",
    "DecoderStdRecipe",
    "Evaluation",
    "ImageSet",
    "NegativeELBO",
    "RandomCrops",
    "Recipe",
    "TrainingDivergedError",
    "TrainingResult",
    "VAERecipe",
    "VarianceRatios",
    "available_recipes",
    "calibration",
    "evaluate",
    "load_recipe",
    "parse_recipe",
    "read_images",
    "train",
]

__getattr__ = moved(__name__, {"Calibration": "pyro_vble.training:VarianceRatios"})
