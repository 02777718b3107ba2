"""Transfer functions against what they are defined as, and kernels against transfer functions."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from pyro_vble.physics import MeasuredMTF, MeasuredPSF, OpticalMTF, point_spread_function
from pyro_vble.physics.optics import annular_mtf

MTFS = {
    "detector": OpticalMTF(along=0.15, across=0.25),
    "all parts": OpticalMTF(along=0.1, across=0.15, cutoff=1.0, obscuration=0.3, smear=0.4, jitter=0.1),
    "no free part": OpticalMTF(cutoff=1.2, obscuration=0.2),
    "curves": MeasuredMTF([0, 0.25, 0.5, 1.0, 1.5], [1, 0.6, 0.2, 0.02, 0], [1, 0.7, 0.3, 0.03, 0]),
}


def spectrum(kernel, f):
    """What a kernel makes of waves of f cycles a pixel of its own, along its rows."""
    places = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    waves = np.exp(-2j * np.pi * np.outer(f, places))
    return waves @ kernel @ waves.T


class TestOpticalMTF:
    @pytest.mark.parametrize("obscuration", [0.0, 0.2, 0.5, 0.8])
    def test_an_annular_aperture_s_is_the_autocorrelation_of_the_pupil(self, obscuration):
        places = (np.arange(801) - 400) / 400
        r = np.hypot(*np.meshgrid(places, places))
        pupil = ((r <= 1) & (r >= obscuration)).astype(float)
        overlap = fftconvolve(pupil, pupil)[800, 800:]
        # A pupil on a grid of 400 pixels a radius is off by about one pixel's width along its edges.
        np.testing.assert_allclose(annular_mtf(np.arange(801) / 800, obscuration), overlap / overlap[0], atol=5e-3)

    def test_nothing_passes_beyond_the_cut_off(self):
        assert (annular_mtf([1.0, 1.5], 0.3) == 0).all()
        assert OpticalMTF(cutoff=0.7).response(0.5, 0.5) == 0

    @pytest.mark.parametrize("name", ["detector", "all parts"])
    def test_nyquist_s_values_are_those_asked_for(self, name):
        mtf = MTFS[name]
        assert mtf.response(0.5, 0) == pytest.approx(mtf.along, rel=1e-12)
        assert mtf.response(0, 0.5) == pytest.approx(mtf.across, rel=1e-12)
        assert mtf.response(0, 0) == pytest.approx(1, abs=1e-12)

    def test_parts_multiply(self):
        f = np.linspace(-0.8, 0.8, 9)
        rows, columns = f[:, None], f[None]
        whole = OpticalMTF(cutoff=1.3, detector=0.8, smear=0.6, jitter=0.2).response(rows, columns)
        parts = [OpticalMTF(detector=0.8), OpticalMTF(cutoff=1.3, detector=0), OpticalMTF(detector=0, smear=0.6),
                 OpticalMTF(detector=0, jitter=0.2)]  # fmt: skip
        np.testing.assert_allclose(whole, np.prod([part.response(rows, columns) for part in parts], axis=0))
        smeared = OpticalMTF(detector=0, smear=0.6).response(rows, columns)
        np.testing.assert_array_equal(smeared, smeared[:, :1] * np.ones(9))  # along track, which is along rows

    def test_more_contrast_than_the_detector_passes(self):
        with pytest.raises(ValueError, match=r"along must be at most .* 0\.6366; received 0\.7; make detector"):
            OpticalMTF(along=0.7, across=0.2)

    @pytest.mark.parametrize("wrong", [{"along": 0.0}, {"across": 1.0}, {"obscuration": 1.0}, {"cutoff": -1.0}])
    def test_numbers_out_of_range(self, wrong):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be "):
            OpticalMTF(**wrong)


class TestMeasured:
    def test_a_kernel_comes_back_from_its_own_transfer_function(self):
        kernel = np.outer([1, 4, 7, 4, 1], [2, 5, 11, 5, 2]).astype(float)
        found = point_spread_function(MeasuredPSF(kernel), energy=1 - 1e-12)
        np.testing.assert_allclose(found, kernel / kernel.sum(), atol=1e-9)

    def test_a_finer_one_has_the_transfer_function_of_the_gaussian_it_samples(self):
        t = np.arange(-20, 21) / 4
        psf = MeasuredPSF(np.exp(-0.5 * (t[:, None] ** 2 + t[None] ** 2) / 0.7**2), samples_per_pixel=4)
        f = np.linspace(0, 1, 5)
        np.testing.assert_allclose(psf.response(f, 0.0), np.exp(-2 * np.pi**2 * 0.7**2 * f**2), atol=1e-6)

    def test_its_centroid_is_moved_to_the_middle(self):
        lopsided = np.random.default_rng(0).random((6, 9)) ** 3
        for scale in (1, 2):
            kernel = point_spread_function(MeasuredPSF(lopsided, samples_per_pixel=2), scale)
            places = np.arange(len(kernel)) - (len(kernel) - 1) / 2
            assert abs(kernel.sum(1) @ places) < 1e-9
            assert abs(kernel.sum(0) @ places) < 1e-9

    def test_a_curve_passes_through_its_values(self):
        found = MTFS["curves"].response([0.25, 0.0, 2.0], [0.0, -0.5, 0.0])
        np.testing.assert_allclose(found, [0.6, 0.3, 0.0])

    def test_what_is_no_curve(self):
        for f, curve in (([0.1, 0.5], [1, 0.2]), ([0, 0.4], [1, 0.2]), ([0, 0.5], [1, 0.2, 0.1])):
            with pytest.raises(ValueError, match="must "):
                MeasuredMTF(f, curve)

    def test_too_coarse_for_the_scale(self):
        with pytest.raises(ValueError, match="scale must be at most the samples_per_pixel"):
            point_spread_function(MeasuredPSF(np.ones((3, 3))), 2)


class TestKernels:
    @pytest.mark.parametrize("scale", [1, 2, 3, 4])
    @pytest.mark.parametrize("name", MTFS)
    def test_sum_centroid_and_nyquist_are_exact(self, name, scale):
        mtf, kernel = MTFS[name], point_spread_function(MTFS[name], scale)
        assert len(kernel) % 2 == scale % 2
        places = np.arange(len(kernel)) - (len(kernel) - 1) / 2
        np.testing.assert_allclose(kernel.sum(1) @ places, 0, atol=1e-9)
        f = np.array([0.0, 0.5])
        np.testing.assert_allclose(spectrum(kernel, f / scale), mtf.response(f[:, None], f[None]), atol=1e-9)

    @pytest.mark.parametrize("scale", [1, 2])
    @pytest.mark.parametrize("name", MTFS)
    def test_more_energy_is_nearer_to_the_transfer_function(self, name, scale):
        """The largest deviation below Nyquist's frequency falls, and is as small as the docstring says by default."""
        f = np.linspace(0, 0.5, 101)
        wanted = MTFS[name].response(f[:, None], f[None])
        left = [
            np.abs(spectrum(point_spread_function(MTFS[name], scale, energy=energy), f / scale) - wanted).max()
            for energy in (0.99, 0.9999, 0.99999)
        ]
        assert left[0] >= left[1] >= left[2]
        assert left[2] < 0.035

    def test_no_transfer_function(self):
        with pytest.raises(TypeError, match="transfer must be an object with a method response"):
            point_spread_function(0.15)
