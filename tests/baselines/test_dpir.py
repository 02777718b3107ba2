"""DPIR against the Wiener filter that a Gaussian denoiser makes of it, against deepinv's, and on photographs."""

import deepinv
import pytest
import torch

from pyro_vble.baselines import dpir
from pyro_vble.baselines.denoisers import denoiser_on
from pyro_vble.baselines.linear import LinearProblem

NOISE = 0.05


def blur(shape, dtype=torch.float64, sigma=1.0, noise=NOISE):
    grid = torch.arange(-2, 3, dtype=dtype)
    k = torch.exp(-0.5 * (grid[:, None] ** 2 + grid[None, :] ** 2) / sigma**2)
    return deepinv.physics.BlurFFT(shape, (k / k.sum())[None, None], noise_model=deepinv.physics.GaussianNoise(noise))


def measured(physics, x, seed=0, noise=NOISE):
    y = physics.A(x)
    return y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def mean_psnr(x, truth):
    return float((-10 * (x - truth).square().flatten(1).mean(1).log10()).mean())


@pytest.fixture
def white_image():
    generator = torch.Generator().manual_seed(1)
    return 0.4 + 0.02**0.5 * torch.randn(2, 1, 16, 24, generator=generator, dtype=torch.float64)


def test_a_gaussian_denoiser_makes_it_a_wiener_filter(gaussian_denoiser, white_image):
    # At a level that stays the iteration ends at the Wiener filter of variance (v + s²) / λ, denoised once more.
    level, weight, v = 0.1, 0.23, gaussian_denoiser.variance
    physics = blur((1, 16, 24))
    y = measured(physics, white_image)
    found = dpir(
        y, physics, gaussian_denoiser, first_level=level, last_level=level, num_iterations=300, device="cpu"
    ).mmse_x()
    transfer = torch.fft.fft2(physics.A(torch.eye(24 * 16, dtype=y.dtype)[:1].reshape(1, 1, 16, 24)))
    centred = torch.fft.fft2(y - 0.4)
    precision = weight / (v + level**2)
    x = torch.fft.ifft2(transfer.conj() * centred / (transfer.abs() ** 2 + NOISE**2 * precision)).real
    torch.testing.assert_close(found, 0.4 + x * v / (v + level**2), rtol=0, atol=1e-6)


def test_each_iteration_is_the_published_one(gaussian_denoiser, white_image):
    # Frequency by frequency it is a recursion of numbers.
    physics = blur((1, 16, 24))
    y = measured(physics, white_image)
    found = dpir(y, physics, gaussian_denoiser, device="cpu").mmse_x()
    transfer = torch.fft.fft2(physics.A(torch.eye(24 * 16, dtype=y.dtype)[:1].reshape(1, 1, 16, 24)))
    data = torch.fft.fft2(y - 0.4)
    z = torch.fft.fft2(LinearProblem.of(y, physics, device="cpu").start - 0.4)
    for s in torch.logspace(torch.tensor(49 / 255).log10(), torch.tensor(NOISE).log10(), 8, dtype=torch.float64):
        rho = 0.23 * NOISE**2 / s**2
        x = (transfer.conj() * data + rho * z) / (transfer.abs() ** 2 + rho)
        z = x * gaussian_denoiser.variance / (gaussian_denoiser.variance + s**2)
    torch.testing.assert_close(found, 0.4 + torch.fft.ifft2(z).real, rtol=0, atol=1e-5)


def test_without_flips_it_is_deepinvs(gaussian_denoiser, white_image):
    physics = blur((1, 16, 24), torch.float32)
    y = measured(physics, white_image.float())
    ours = dpir(y, physics, gaussian_denoiser, flips=False, device="cpu").mmse_x()
    theirs = deepinv.optim.DPIR(sigma=NOISE, denoiser=gaussian_denoiser)(
        y, physics, init=LinearProblem.of(y, physics, device="cpu").start
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_turn_is_undone():
    # A denoiser that is none leaves the data's own step alone, turned or not.
    physics = blur((1, 16, 24))
    y = measured(physics, torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0)).double())
    still = [dpir(y, physics, lambda x, s: x, flips=flips, device="cpu").mmse_x() for flips in (False, True)]
    torch.testing.assert_close(*still)
    leaning = [
        dpir(y, physics, lambda x, s: (x + x.roll(1, -1)) / 2, flips=flips, device="cpu").mmse_x()
        for flips in (False, True)
    ]
    assert float((leaning[0] - leaning[1]).abs().max()) > 0.01


def test_without_noise_an_identity_gives_the_image_back():
    x = torch.rand(1, 3, 16, 17, generator=torch.Generator().manual_seed(0))
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(1e-4))
    found = dpir(x, physics, deepinv.models.MedianFilter(), last_level=1e-4, num_iterations=20).mmse_x()
    # The last data step at level 1e-4 weighs data 1 / 0.23 times as much; the median filter then has the last word.
    assert found.shape == x.shape
    kept = dpir(x, physics, lambda x, s: x, last_level=1e-4).mmse_x()
    torch.testing.assert_close(kept, x, rtol=0, atol=1e-4)


def test_a_batch_of_unlike_noise_is_its_images(gaussian_denoiser):
    noise = torch.tensor([0.02, 0.1])
    physics = deepinv.physics.Blur(
        torch.ones(1, 1, 3, 3) / 9, padding="reflect", noise_model=deepinv.physics.GaussianNoise(noise)
    )
    y = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y[1, :, 2, 3] = torch.nan
    both = dpir(y, physics, gaussian_denoiser).mmse_x()
    assert both.dtype == torch.float32
    assert bool(both.isfinite().all())
    for i in range(2):
        physics.noise_model = deepinv.physics.GaussianNoise(float(noise[i]))
        one = dpir(y[i : i + 1], physics, gaussian_denoiser).mmse_x()
        torch.testing.assert_close(both[i : i + 1], one, rtol=0, atol=1e-4)


def test_the_measurement_and_the_operator_stay_as_they_were(gaussian_denoiser):
    physics = blur((1, 16, 24), torch.float32)
    y = torch.rand(1, 1, 16, 24)
    before, settings = y.clone(), (physics.max_iter, physics.tol)
    samples = dpir(y, physics, gaussian_denoiser)
    assert torch.equal(y, before)
    assert (physics.max_iter, physics.tol) == settings
    assert samples.number(None) == 1
    assert samples.made_with.startswith("dpir, denoiser GaussianDenoiser")


def test_no_denoiser_says_how_to_have_one(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(deepinv.models, "DRUNet", offline)
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    with pytest.raises(RuntimeError, match="the path of a file with FFDNet's weights"):
        dpir(torch.rand(1, 3, 16, 16), physics)
    with pytest.raises(TypeError, match="a denoiser"):
        dpir(torch.rand(1, 3, 16, 16), physics, 3)
    with pytest.raises(FileNotFoundError, match="where there is no file"):
        dpir(torch.rand(1, 3, 16, 16), physics, "nowhere.safetensors")


def test_weights_of_another_network_are_told(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="must hold the weights of FFDNet"):
        denoiser_on(tmp_path / "other.pth", 3, torch.device("cpu"))


def test_grey_and_many_bands_go_through_a_colour_network(ffdnet_path):
    network = denoiser_on(ffdnet_path, 1, torch.device("cpu"))
    grey = torch.rand(2, 1, 15, 17, generator=torch.Generator().manual_seed(0))
    found = network(grey, torch.tensor([0.1, 0.2]))
    colour = network(grey.expand(-1, 3, -1, -1), torch.tensor([0.1, 0.2])).mean(1, keepdim=True)
    torch.testing.assert_close(found, colour, rtol=0, atol=1e-5)
    four = torch.cat([grey, grey, grey, grey], 1)
    torch.testing.assert_close(network(four, 0.1)[:, 2:3], network(grey, 0.1), rtol=0, atol=1e-5)


def test_ffdnet_takes_away_most_of_the_noise(ffdnet_path, photographs):
    assert denoised_psnr(ffdnet_path, photographs) > 20.2 + 8


@pytest.mark.slow
def test_ffdnet_denoises_as_published(ffdnet_path, whole_photographs):
    # 31.21 dB on CBSD68 (Zhang et al., 2018, table 5); photographs differ by 2.2 dB, the mean of 16 by 0.55.
    assert abs(denoised_psnr(ffdnet_path, whole_photographs) - 31.21) < 3 * 0.55


def denoised_psnr(path, x):
    noisy = x + 25 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return mean_psnr(denoiser_on(path, 3, torch.device("cpu"))(noisy, 25 / 255), x)


def test_dpir_restores_better_than_its_denoiser_alone(ffdnet_path, photographs):
    x = photographs[:4]
    physics = blur((3, 96, 96), torch.float32, 1.6, noise=2.55 / 255)
    y = measured(physics, x, noise=2.55 / 255)
    alone = denoiser_on(ffdnet_path, 3, torch.device("cpu"))(y, 2.55 / 255)
    restored = dpir(y, physics, ffdnet_path, device="cpu").mmse_x()
    assert mean_psnr(restored, x) > mean_psnr(alone, x) + 2.0
