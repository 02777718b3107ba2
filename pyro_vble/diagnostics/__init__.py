"""Is the posterior right? Each diagnostic returns numbers, and has a function that draws them."""

from pyro_vble.diagnostics.comparison import compare_guides
from pyro_vble.diagnostics.conformal import Calibration
from pyro_vble.diagnostics.coverage import CoverageCurve, coverage_curve, plot_coverage
from pyro_vble.diagnostics.coverage_by_texture import CoverageByTexture, coverage_by_texture, intervals_by_texture
from pyro_vble.diagnostics.error_budget import ErrorBudget, error_budget, plot_error_budget
from pyro_vble.diagnostics.error_by_std import ErrorByStd, error_by_std, plot_error_by_std
from pyro_vble.diagnostics.error_quantile import ErrorQuantile, error_quantile, plot_error_quantile
from pyro_vble.diagnostics.pit import PITHistogram, pit, pit_histogram, plot_pit_histogram
from pyro_vble.diagnostics.predictive import PredictiveCheck, plot_residual, predictive_check
from pyro_vble.diagnostics.psis import ImportanceSampling, importance_sampling
from pyro_vble.diagnostics.reference import ReferencePosterior, compare_with_reference, reference_posterior
from pyro_vble.diagnostics.sbc import SBC, plot_sbc, sbc, simulation_based_calibration
from pyro_vble.diagnostics.scores import crps, interval_score, plot_score_map
from pyro_vble.diagnostics.summary import summary
from pyro_vble.diagnostics.z_scores import plot_z_score_map, z_score_map

__all__ = [
    "SBC",
    "Calibration",
    "CoverageByTexture",
    "CoverageCurve",
    "ErrorBudget",
    "ErrorByStd",
    "ErrorQuantile",
    "ImportanceSampling",
    "PITHistogram",
    "PredictiveCheck",
    "ReferencePosterior",
    "compare_guides",
    "compare_with_reference",
    "coverage_by_texture",
    "coverage_curve",
    "crps",
    "error_budget",
    "error_by_std",
    "error_quantile",
    "importance_sampling",
    "interval_score",
    "intervals_by_texture",
    "pit",
    "pit_histogram",
    "plot_coverage",
    "plot_error_budget",
    "plot_error_by_std",
    "plot_error_quantile",
    "plot_pit_histogram",
    "plot_residual",
    "plot_sbc",
    "plot_score_map",
    "plot_z_score_map",
    "predictive_check",
    "reference_posterior",
    "sbc",
    "simulation_based_calibration",
    "summary",
    "z_score_map",
]
