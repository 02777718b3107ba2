"""Training priors: the models under their own encoders as guides, by maximising the ELBO."""

from pyro_vble.training.crops import RandomCrops
from pyro_vble.training.data import ImageSet, read_images
from pyro_vble.training.evaluation import Calibration, Evaluation, calibration, evaluate
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
    "Calibration",
    "DecoderStdRecipe",
    "Evaluation",
    "ImageSet",
    "NegativeELBO",
    "RandomCrops",
    "Recipe",
    "TrainingDivergedError",
    "TrainingResult",
    "VAERecipe",
    "available_recipes",
    "calibration",
    "evaluate",
    "load_recipe",
    "parse_recipe",
    "read_images",
    "train",
]
