"""The optical sensor: its adjoint, its transfer function, where its samples lie, and its likelihood."""

from types import SimpleNamespace

import deepinv
import pytest
import torch

import pyro_vble as pv
from pyro_vble.distributions import SensedNormal
from pyro_vble.physics import (
    OpticalMTF,
    OpticalSensor,
    SignalDependentNoise,
    describe,
    image_shape_of,
    likelihood,
    point_spread_function,
)
from pyro_vble.physics.convolution import correlate, correlate_adjoint
from pyro_vble.physics.sensor import Quantisation
from pyro_vble.physics.sensors import sensor_of

PADDINGS = ("reflect", "replicate", "circular", "constant", "valid")
MTF = OpticalMTF(along=0.15, across=0.2, cutoff=1.0, obscuration=0.3, smear=0.3)


def sensor(scale=1, **settings):
    return OpticalSensor(point_spread_function(MTF, scale), scale=scale, **settings)


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("scale", [1, 2, 3])
class TestAdjoint:
    @pytest.mark.parametrize("blocks", [(40, 37), (21, 64)])
    @pytest.mark.parametrize("bands", [1, 3])
    def test_dot_product(self, scale, padding, blocks, bands):
        psf = random(bands, scale + 4, scale + 8) - 0.2
        physics = OpticalSensor(psf, scale=scale, padding=padding)
        x = random(2, 3, *(scale * n for n in blocks))
        y = physics.A(x)
        v = random(*y.shape).flip(0)
        torch.testing.assert_close((y * v).sum(), (x * physics.A_adjoint(v)).sum(), rtol=1e-10, atol=0)

    def test_dot_product_of_a_large_kernel(self, scale, padding):
        """By Fourier transforms, as the small one's is direct."""
        physics = sensor(scale, padding=padding)
        x = random(1, 2, 30 * scale, 41 * scale)
        y = physics.A(x)
        v = random(*y.shape).flip(-1)
        torch.testing.assert_close((y * v).sum(), (x * physics.A_adjoint(v)).sum(), rtol=1e-10, atol=0)

    def test_the_image_s_shape_is_found(self, scale, padding):
        physics = sensor(scale, padding=padding)
        y = physics.A(random(1, 1, 30 * scale, 41 * scale))
        assert image_shape_of(physics, y) == (1, 30 * scale, 41 * scale)

    def test_gradients(self, scale, padding):
        physics = OpticalSensor(random(scale + 2, scale + 2), scale=scale, padding=padding)
        x = random(1, 1, 5 * scale, 4 * scale).requires_grad_()
        assert torch.autograd.gradcheck(physics.A, x)
        assert torch.autograd.gradcheck(physics.A_adjoint, physics.A(x).detach().requires_grad_())


@pytest.mark.parametrize("padding", PADDINGS[:4])
def test_images_smaller_than_the_kernel(padding):
    physics = sensor(2, padding=padding)
    for size in ((2, 2), (4, 6), (2, 40)):
        x = random(1, 3, *size)
        y = physics.A(x)
        v = random(*y.shape)
        assert y.shape[-2:] == (size[0] // 2, size[1] // 2)
        torch.testing.assert_close((y * v).sum(), (x * physics.A_adjoint(v)).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_both_ways_of_convolving_agree(step):
    """Kernels with zeros around them are large enough for Fourier transforms."""
    small, x = random(1, 1, 4, 5), random(2, 3, 41, 46)
    wide = torch.nn.functional.pad(small, (0, 20, 0, 20))
    direct, fourier = correlate(x, small, step), correlate(x, wide, step)
    rows, columns = fourier.shape[-2:]
    torch.testing.assert_close(fourier, direct[..., :rows, :columns])
    torch.testing.assert_close(
        correlate_adjoint(fourier, wide, step)[..., : step * (rows - 1) + 4, : step * (columns - 1) + 5],
        correlate_adjoint(fourier, small, step),
    )


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize(("rows", "columns"), [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_waves_at_nyquist_are_passed_as_the_mtf_says(scale, rows, columns):
    """Of the sensor's sampling: crests and troughs are in the middles of neighbouring pixels of the sensor."""
    physics, size = sensor(scale), 60 * scale
    place = (torch.arange(size, dtype=torch.float64) - (scale - 1) / 2) / scale
    wave = torch.cos(2 * torch.pi * (rows * place[:, None] + columns * place[None]))
    margin = physics.radius // scale
    inside = (..., slice(margin, 60 - margin), slice(margin, 60 - margin))
    sampled = wave[scale // 2 :: scale, scale // 2 :: scale] if scale % 2 else None
    y = physics.A(wave[None, None])[0, 0][inside]
    coarse = torch.arange(60, dtype=torch.float64)
    expected = torch.cos(2 * torch.pi * (rows * coarse[:, None] + columns * coarse[None]))
    if sampled is not None:
        torch.testing.assert_close(sampled, expected)
    torch.testing.assert_close(y, float(MTF.response(rows, columns)) * expected[inside], rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_ramp_is_measured_as_its_means_over_blocks(scale):
    physics, size = sensor(scale), 50 * scale
    t = torch.arange(size, dtype=torch.float64)
    ramp = (t[:, None] + 3 * t[None])[None, None]
    margin = physics.radius // scale
    inside = (..., slice(margin, 50 - margin), slice(margin, 50 - margin))
    means = torch.nn.functional.avg_pool2d(ramp, scale)
    torch.testing.assert_close(physics.A(ramp)[inside], means[inside], rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_without_padding_the_blocks_at_the_border_are_missing(scale):
    x = random(1, 1, 40 * scale, 50 * scale)
    whole, valid = sensor(scale), sensor(scale, padding="valid")
    margin = whole.radius // scale
    torch.testing.assert_close(valid.A(x), whole.A(x)[..., margin:-margin, margin:-margin])


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_value_reaches_its_radius_and_no_further(scale):
    physics = sensor(scale)
    impulse = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    impulse[..., 20, 20] = 1
    seen = physics.A_adjoint(impulse)[0, 0].abs() > 1e-12
    rows = seen.any(1).nonzero()
    block = 20 * scale
    assert int(rows.min()) == block - physics.radius
    assert int(rows.max()) == block + scale - 1 + physics.radius


def test_every_band_has_its_own_kernel():
    sharp, dull = (point_spread_function(OpticalMTF(along=m, across=m)) for m in (0.3, 0.1))
    side = max(len(sharp), len(dull))
    stack = torch.stack(
        [torch.nn.functional.pad(torch.from_numpy(k), [(side - len(k)) // 2] * 4) for k in (sharp, dull)]
    )
    x = random(1, 2, 32, 32)
    y = OpticalSensor(stack).A(x)
    for band, kernel in enumerate((sharp, dull)):
        torch.testing.assert_close(y[:, band], OpticalSensor(kernel).A(x)[:, band], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"of shape \(B, 2, H, W\), as the psf has 2 bands; received \(1, 3, 8, 8\)"):
        OpticalSensor(stack).A(random(1, 3, 8, 8))


class TestArguments:
    def test_sides_that_do_not_fit_the_scale(self):
        with pytest.raises(ValueError, match=r"sides of the psf must be even for scale=2.*received 5x5"):
            OpticalSensor(torch.ones(5, 5), scale=2)

    def test_a_size_that_the_scale_does_not_divide(self):
        with pytest.raises(ValueError, match=r"The scale 2 must divide .* received \(7, 8\)"):
            sensor(2).A(random(1, 1, 7, 8))

    def test_too_small_for_no_padding(self):
        with pytest.raises(ValueError, match="Without padding the image must be at least as large as the psf"):
            sensor(padding="valid").A(random(1, 1, 4, 4))

    @pytest.mark.parametrize(
        "wrong", [{"scale": 0}, {"padding": "mirror"}, {"bits": 0}, {"bits": 17}, {"psf": torch.zeros(3, 3)}]
    )
    def test_out_of_range(self, wrong):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be "):
            OpticalSensor(**{"psf": torch.ones(3, 3), **wrong})


def test_the_converter_is_in_the_likelihood(cae):
    """Twelve bits behind signal-dependent noise: clipped at the ends, rounded between."""
    noise = SignalDependentNoise(0.002, torch.tensor([1e-4, 2e-4, 3e-4]).reshape(3, 1, 1))
    physics = sensor(noise_model=noise, bits=12)
    y = physics(torch.linspace(-0.1, 1.1, 64).expand(1, 3, 64, 64))
    assert float(y.min()) == 0
    assert float(y.max()) == 1
    torch.testing.assert_close(y * 4095, (y * 4095).round(), rtol=0, atol=1e-3)
    p_y = likelihood(physics, physics.A(random(1, 3, 64, 64).float()))
    assert isinstance(p_y, SensedNormal)
    assert (p_y.low, p_y.high, p_y.step) == pytest.approx((0, 1, 1 / 4095))
    posterior = pv.restore(y, physics, cae, num_steps=3, seed=0, progress=False)
    assert posterior.elbo.isfinite().all()


def test_sensors_that_differ_in_their_bits_are_two():
    """A calibration is for one operator, told by its description."""
    twelve, ten, none = (describe(sensor(bits=bits)) for bits in (12, 10, None))
    assert twelve.endswith("Quantisation(bits=12)")
    assert len({twelve, ten, none}) == 3
    assert describe(deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))).endswith("(sigma=0.1)")


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_point_is_imaged_as_the_point_spread_function(scale):
    """Not as what it is when it is turned: a smear to the right is one to the right."""
    side = 6 * scale + scale
    psf = torch.rand(side, side, generator=torch.Generator().manual_seed(scale))
    psf = psf / psf.sum()
    physics = OpticalSensor(psf, scale=scale)
    n = 12 * scale
    x = torch.zeros(1, 1, n, n)
    x[..., n // 2, n // 2] = 1
    y = physics.A(x)[0, 0]
    # The pixel i sees the point at n/2 from the middle of its block.
    far = n // 2 - scale * torch.arange(12) - (scale - 1) / 2
    place = ((side - 1) / 2 - far).round().long()
    seen = (place >= 0) & (place < side)
    expected = torch.zeros(12, 12)
    expected[seen.nonzero(), seen.nonzero().T] = psf[place[seen][:, None], place[seen]]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("bits", range(1, 17))
def test_what_a_converter_says_of_itself_is_what_it_does(bits):
    """Probabilities of all values sum to one; where steps can be seen, a function that says nothing is known too."""
    quantisation = Quantisation(bits)
    if 3 <= bits <= 12:
        found = sensor_of(SimpleNamespace(sensor_model=lambda v: quantisation(v)))
        assert found.step == pytest.approx(quantisation.sensor.step)
        assert (found.low, found.high, found.shift) == (0.0, 1.0, 0.0)
    physics = OpticalSensor(torch.ones(1, 1), bits=bits, noise_model=deepinv.physics.GaussianNoise(0.2))
    values = torch.arange(2**bits, dtype=torch.float64) / (2**bits - 1)
    probability = likelihood(physics, torch.tensor(0.3, dtype=torch.float64)).log_prob(values).exp()
    probability[1:-1] *= quantisation.sensor.step
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-5)
