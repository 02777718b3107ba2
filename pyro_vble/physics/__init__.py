"""From a forward operator and its noise model to a likelihood and a first guess."""

from pyro_vble.physics.gaussian_blur import GaussianBlur
from pyro_vble.physics.information import fisher_information, parameter_information
from pyro_vble.physics.initial import consistent_image, fill_missing, initial_image
from pyro_vble.physics.joining import joined, jointly
from pyro_vble.physics.joint import Jointly
from pyro_vble.physics.likelihood import QUANTISATION, likelihood, noise_distribution
from pyro_vble.physics.noise_calibration import NoiseCalibration, calibrate_noise
from pyro_vble.physics.noises import PhotonNoise, SignalDependentNoise
from pyro_vble.physics.operators import (
    check_image_shape,
    fill_unobserved,
    image_shape_of,
    measure,
    observed_mask,
    operator_on,
)
from pyro_vble.physics.optics import MeasuredMTF, MeasuredPSF, OpticalMTF, point_spread_function
from pyro_vble.physics.panchromatic import pansharpening, spectral_weights
from pyro_vble.physics.parameters import check_physics_priors, describe, initial_value, operator_arguments, prior_on
from pyro_vble.physics.parts import is_divisible, part_of
from pyro_vble.physics.radiometry import Radiometry
from pyro_vble.physics.sensor import OpticalSensor
from pyro_vble.physics.spectral import SpectralResponse
from pyro_vble.physics.validation import noise_level, validate_measurement

__all__ = [
    "QUANTISATION",
    "GaussianBlur",
    "Jointly",
    "MeasuredMTF",
    "MeasuredPSF",
    "NoiseCalibration",
    "OpticalMTF",
    "OpticalSensor",
    "PhotonNoise",
    "Radiometry",
    "SignalDependentNoise",
    "SpectralResponse",
    "calibrate_noise",
    "check_image_shape",
    "check_physics_priors",
    "consistent_image",
    "describe",
    "fill_missing",
    "fill_unobserved",
    "fisher_information",
    "image_shape_of",
    "initial_image",
    "initial_value",
    "is_divisible",
    "joined",
    "jointly",
    "likelihood",
    "measure",
    "noise_distribution",
    "noise_level",
    "observed_mask",
    "operator_arguments",
    "operator_on",
    "pansharpening",
    "parameter_information",
    "part_of",
    "point_spread_function",
    "prior_on",
    "spectral_weights",
    "validate_measurement",
]
