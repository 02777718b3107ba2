"""The first guess is an image in the image's own unit, whatever the measurement is in."""

import deepinv
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, LinearPhysics, PoissonNoise

from pyro_vble.metrics import psnr
from pyro_vble.physics import consistent_image, initial_image
from pyro_vble.physics.problems import deblurring, gaussian_kernel

SHAPE = (3, 64, 64)


@pytest.fixture(scope="module")
def photograph():
    import skimage.data

    return torch.from_numpy(skimage.data.astronaut()[40:104, 180:244].copy()).permute(2, 0, 1)[None].float() / 255


class Linear(LinearPhysics):
    """Any linear operator, by its two functions."""

    def __init__(self, A, A_adjoint, sigma=0.05):
        super().__init__(noise_model=GaussianNoise(sigma))
        self._A, self._adjoint = A, A_adjoint

    def A(self, x, **kwargs):
        return self._A(x)

    def A_adjoint(self, y, **kwargs):
        return self._adjoint(y)


def guess_of(physics, x, holes=False):
    torch.manual_seed(0)
    y = physics(x)
    if holes:
        y[..., 10:14, 10:14] = torch.nan
    return consistent_image(physics, y, tuple(x.shape[1:]))


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("gain", [0.1, 1.3, 10.0])
def test_a_gain_changes_nothing(photograph, gain, holes):
    reference = guess_of(Denoising(GaussianNoise(0.05)), photograph, holes)
    found = guess_of(Linear(lambda x: gain * x, lambda y: gain * y, 0.05 * gain), photograph, holes)
    assert psnr(found, photograph) > psnr(reference, photograph) - 0.1


@pytest.mark.parametrize("holes", [False, True])
def test_counts_are_their_normalised_twin(photograph, holes):
    twins = [guess_of(Denoising(PoissonNoise(0.02, normalize=n)), photograph, holes) for n in (True, False)]
    torch.testing.assert_close(*twins, atol=1e-4, rtol=0)


def test_blurred_counts(photograph):
    physics = deblurring(0.1, gaussian_kernel(1.5))
    guesses = []
    for normalize in (True, False):
        physics.noise_model = PoissonNoise(0.02, normalize=normalize)
        guesses.append(guess_of(physics, photograph))
    torch.testing.assert_close(*guesses, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "moved",
    [
        Linear(lambda x: x.flip(-1), lambda y: y.flip(-1)),
        Linear(lambda x: x.flip(1), lambda y: y.flip(1)),
        Linear(lambda x: x.roll(20, -1), lambda y: y.roll(-20, -1)),
        Linear(lambda x: 1.0 * x.transpose(-1, -2), lambda y: y.transpose(-1, -2)),
    ],
    ids=["flip", "band order", "roll", "transpose"],
)
def test_operators_that_move_pixels(photograph, moved):
    reference = guess_of(Denoising(GaussianNoise(0.05)), photograph)
    assert psnr(guess_of(moved, photograph), photograph) > psnr(reference, photograph) - 0.1


def test_measurements_in_another_domain(photograph):
    grey = photograph.mean(1, keepdim=True)
    mask = (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) > 0.3).float()
    camera = deepinv.physics.SinglePixelCamera(m=2000, img_size=(1, 64, 64), noise_model=GaussianNoise(0.05))
    assert psnr(guess_of(camera, grey), grey) > 20
    mri = deepinv.physics.MRI(mask=mask, img_size=(2, 64, 64), noise_model=GaussianNoise(0.03))
    assert psnr(guess_of(mri, torch.cat([grey, 0 * grey], 1))[:, :1], grey) > 16


def test_each_image_of_a_batch_chooses_for_itself(photograph):
    """One whose band order is reversed beside one whose bands are alike, of which none is."""
    physics = Linear(lambda x: x.flip(1), lambda y: y.flip(1), 0.01)
    grey = photograph.mean(1, keepdim=True).expand_as(photograph)
    y = physics.A(torch.cat((photograph, grey)))
    batch = initial_image(physics, y, SHAPE)
    single = torch.cat([initial_image(physics, y[i : i + 1], SHAPE) for i in range(2)])
    torch.testing.assert_close(batch, single)


def test_noise_is_not_taken_for_detail(photograph):
    """The pseudo-inverse of a blur explains its measurement best and is worst."""
    physics = deblurring(0.03, gaussian_kernel(2.0))
    torch.manual_seed(0)
    y = physics(photograph)
    assert torch.equal(initial_image(physics, y, SHAPE), y.clamp(0, 1))


def test_a_density_without_a_mean_takes_the_measurement_as_it_is():
    import pyro.distributions as dist

    from pyro_vble.physics import noise_distribution

    class Heavy(deepinv.physics.NoiseModel):
        pass

    class Nameless(dist.Cauchy):
        @property
        def mean(self):
            raise NotImplementedError

    @noise_distribution.register
    def _(noise_model: Heavy, signal):
        return Nameless(signal, torch.full_like(signal, 0.1))

    y = torch.rand(1, 3, 16, 16)
    assert torch.equal(initial_image(Denoising(Heavy()), y, (3, 16, 16)), y)
