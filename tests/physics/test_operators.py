import deepinv
import numpy as np
import pytest
import skimage.data
import torch
from deepinv.physics import Blur, Denoising, Downsampling, GaussianNoise, Inpainting
from helpers import MatrixPhysics, linear_vae

import pyro_vble as pv
from pyro_vble.metrics import psnr
from pyro_vble.physics import fill_missing, image_shape_of, initial_image, measure, observed_mask, problems
from pyro_vble.physics.problems import gaussian_kernel

NOISE = GaussianNoise(0.02)
KERNEL = gaussian_kernel(1.0)[None, None]
SHAPE = (3, 64, 80)


def operators():
    mask = (torch.rand(1, *SHAPE[1:]) < 0.7).float().expand(SHAPE).clone()
    return {
        "denoising": Denoising(NOISE),
        "blur, reflect": Blur(KERNEL, padding="reflect", noise_model=NOISE),
        "blur, circular": Blur(KERNEL, padding="circular", noise_model=NOISE),
        "blur, valid": Blur(KERNEL, padding="valid", noise_model=NOISE),
        "downsampling": Downsampling(img_size=SHAPE, filter="bicubic", factor=2, padding="reflect", noise_model=NOISE),
        "downsampling x4": Downsampling(img_size=SHAPE, filter="gaussian", factor=4, noise_model=NOISE),
        "inpainting": Inpainting(SHAPE, mask=mask, noise_model=NOISE),
        "blur, then downsampling": Downsampling(img_size=SHAPE, filter=None, factor=2, noise_model=NOISE)
        * Blur(KERNEL, padding="reflect"),
        "blur, then mask": Inpainting(SHAPE, mask=mask, noise_model=NOISE) * Blur(KERNEL, padding="reflect"),
    }


@pytest.fixture
def image():
    crop = skimage.data.cat()[70:134, 150:230]
    return torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", operators())
def test_image_shape_and_first_guess(name, image):
    physics = operators()[name]
    y = physics(image)
    assert image_shape_of(physics, y) == SHAPE
    guess = initial_image(physics, y, SHAPE)
    assert guess.shape == image.shape
    assert psnr(guess, image) > psnr(torch.full_like(image, 0.5), image) + 5


@pytest.mark.parametrize("name", operators())
def test_restoring_explains_the_measurement(name, image, bundled):
    """Whatever the operator, A(restored) comes close to y, and the ELBO grows.

    The residual is the noise, 0.02, and what the bundled prior cannot represent, about 0.03.
    """
    physics = operators()[name]
    y = physics(image)
    posterior = pv.restore(y, physics, bundled, num_steps=60, seed=0, progress=False)
    assert posterior.shape == (1, *SHAPE)
    residual = (physics.A(posterior.mmse_z) - y)[observed_mask(physics, y)]
    assert float(residual.square().mean().sqrt()) < 0.04
    assert posterior.elbo[-5:].mean() > posterior.elbo[0]


def test_a_users_own_operator_with_an_adjoint(bundled):
    class Half(deepinv.physics.LinearPhysics):
        def A(self, x, **kwargs):
            return 0.5 * x[..., ::2, :]

        def A_adjoint(self, y, **kwargs):
            x = y.new_zeros(*y.shape[:2], 2 * y.shape[2], y.shape[3])
            x[..., ::2, :] = 0.5 * y
            return x

    physics = Half(noise_model=NOISE)
    y = physics(torch.rand(1, 3, 64, 64))
    posterior = pv.restore(y, physics, bundled, num_steps=3, progress=False)
    assert posterior.shape == (1, 3, 64, 64)


def test_a_users_own_operator_with_a_alone(bundled):
    class Gamma:
        noise_model = NOISE

        def A(self, x):
            return x.clamp_min(0) ** 2.2

    posterior = pv.restore(torch.rand(1, 3, 64, 64), Gamma(), bundled, num_steps=3, progress=False)
    assert posterior.mmse_z.shape == (1, 3, 64, 64)


def test_an_operator_without_adjoint_that_changes_the_size(bundled):
    class EverySecond:
        noise_model = NOISE

        def A(self, x):
            return x[..., ::2, ::2]

    y = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="image_shape="):
        pv.restore(y, EverySecond(), bundled, progress=False)
    named = pv.restore(y, EverySecond(), bundled, image_shape=(3, 64, 64), num_steps=2, progress=False)
    assert named.shape == (1, 3, 64, 64)
    vae = linear_vae(torch.randn(16, 2), torch.zeros(16), 0.1, (1, 4, 4)).float()
    matrix = MatrixPhysics(torch.randn(7, 16), NOISE)
    fit = pv.restore(torch.rand(3, 7), matrix, vae, num_steps=2, progress=False, precision="float32")
    assert fit.shape == (3, 1, 4, 4), "a prior of one size tells the image's"


def test_noise_levels_by_image_in_any_batch(bundled):
    for size in (1, 3):
        physics = Denoising(GaussianNoise(torch.linspace(0.1, 0.3, size)))
        posterior = pv.restore(torch.rand(size, 3, 64, 64), physics, bundled, num_steps=2, progress=False)
        assert posterior.shape[0] == size


def test_a_sinogram_is_inverted_not_resized():
    physics = deepinv.physics.Tomography(angles=30, img_width=32, noise_model=NOISE)
    image = torch.zeros(1, 1, 32, 32)
    image[..., 10:20, 12:24] = 1
    guess = initial_image(physics, physics.A(image), (1, 32, 32))
    assert float((guess - image).square().mean()) < 0.02


def test_a_blur_that_eats_most_of_the_image_is_extended():
    kernel = torch.ones(1, 1, 25, 25) / 625
    physics = Blur(kernel, padding="valid", noise_model=NOISE)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).clone()
    guess = initial_image(physics, physics.A(ramp), (3, 64, 64))
    assert float((guess - ramp)[..., 12:-12].abs().max()) < 1e-3


def test_particles_are_measured_one_by_one():
    per_image = Blur(torch.rand(2, 1, 3, 3), padding="circular")
    x = torch.rand(5, 2, 3, 16, 16)
    torch.testing.assert_close(measure(per_image, x)[3], per_image.A(x[3]))


def test_masks_are_read_where_the_operator_ends_with_them():
    y = torch.rand(1, *SHAPE)
    y[0, 0, 0, 0] = torch.nan
    for name in ("inpainting", "blur, then mask"):
        physics = operators()[name]
        mask = observed_mask(physics, y)
        assert not mask[0, 0, 0, 0]
        assert 0.6 < float(mask.float().mean()) < 0.8
    assert int((~observed_mask(Denoising(NOISE), y)).sum()) == 1


def test_missing_pixels_are_interpolated(image):
    observed = (torch.rand(1, 1, 64, 80) < 0.3).expand_as(image)
    filled = fill_missing(torch.where(observed, image, torch.nan), observed)
    assert bool(torch.isfinite(filled).all())
    assert bool((filled[observed] == image[observed]).all())
    assert psnr(filled, image) > 25
    lonely = torch.zeros_like(observed)
    lonely[..., 0, 0] = True
    assert bool((fill_missing(image, lonely)[0, 0] - image[0, 0, 0, 0]).abs().max() < 1e-5)


class TestErrors:
    def test_a_measurement_of_another_operator(self):
        physics = Inpainting(SHAPE, mask=torch.ones(SHAPE), noise_model=NOISE)
        with pytest.raises(ValueError, match=r"received y of shape \(1, 3, 63, 80\)"):
            image_shape_of(physics, torch.rand(1, 3, 63, 80))

    def test_a_missing_batch_dimension(self):
        with pytest.raises(ValueError, match=r"y\[None\]"):
            image_shape_of(operators()["downsampling"], torch.rand(3, 32, 40))

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: problems.gaussian_noise(-1), "noise level, finite and not negative"),
            (lambda: problems.deblurring(0.1, torch.zeros(3, 3)), "blur kernel"),
            (lambda: problems.gaussian_kernel(0), "blur_sigma must be a number of pixels from"),
            (lambda: problems.super_resolution(0.1, (3, 65, 64), 2), "factor must divide the image's sides"),
        ],
    )
    def test_problems(self, build, message):
        with pytest.raises(ValueError, match=message):
            build()


def test_the_identity_shape_is_tried_for_operators_without_adjoint():
    physics = MatrixPhysics(torch.eye(4), NOISE)
    with pytest.raises(ValueError, match="image_shape="):
        image_shape_of(physics, torch.rand(1, 1, 2, 2))


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
def test_a_block_is_measured_in_its_middle(factor):
    """So a georeference of pixels so many times as large is right, and what other libraries reduce fits."""
    side = 12 * factor
    physics = problems.super_resolution(0.0, (1, side, side), factor)
    x = torch.arange(float(side)).expand(1, 1, side, side).contiguous()
    middles = factor * torch.arange(12.0) + (factor - 1) / 2
    torch.testing.assert_close(physics.A(x)[0, 0, 5, 3:-3], middles[3:-3], rtol=0, atol=1e-3)
    torch.testing.assert_close(physics.A(x.mT.contiguous())[0, 0, 3:-3, 5], middles[3:-3], rtol=0, atol=1e-3)
    y, z = torch.rand(1, 1, 12, 12), torch.rand(1, 1, side, side)
    torch.testing.assert_close((physics.A(z) * y).sum(), (z * physics.A_adjoint(y)).sum(), rtol=1e-5, atol=0)


def test_twofold_reduction_is_that_of_deepinv():
    x = torch.rand(1, 3, 32, 48)
    theirs = deepinv.physics.Downsampling(img_size=(3, 32, 48), filter="bicubic", factor=2, padding="reflect")
    torch.testing.assert_close(problems.super_resolution(0.0, (3, 32, 48), 2).A(x), theirs.A(x))


@pytest.mark.parametrize("factor", [3, 4])
def test_reduction_is_that_of_image_libraries(factor):
    """Pillow's, whose cubic is of the same kind, away from the edges."""
    from PIL import Image

    side = 20 * factor
    x = torch.rand(side, side, generator=torch.Generator().manual_seed(0))
    theirs = np.asarray(Image.fromarray(x.numpy()).resize((20, 20), Image.Resampling.BICUBIC))
    ours = problems.super_resolution(0.0, (1, side, side), factor).A(x[None, None])[0, 0].numpy()
    np.testing.assert_allclose(ours[3:-3, 3:-3], theirs[3:-3, 3:-3], atol=1e-5)
