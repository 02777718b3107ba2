"""NL-Bayes and inverse filtering, in parts whose answers are known."""

import deepinv
import pytest
import torch

from pyro_vble.baselines import bay_if
from pyro_vble.baselines.bay_if import Stabiliser, inverse_filter
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.baselines.nl_bayes import nl_bayes, similar
from pyro_vble.physics import SignalDependentNoise


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_psnr(x, truth):
    return float((-10 * (x - truth).square().flatten(1).mean(1).log10()).mean())


def test_the_most_similar_patches_are_those_of_a_search():
    image = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0))
    side, window, n, stride = 3, 5, 4, 2
    found = similar(image, side, window, n, stride)
    rows, columns = 7, 6
    references = [(y, x) for y in (0, 2, 4, 6) for x in (0, 2, 4, 5)]
    assert found.shape == (len(references), n)
    cut = lambda y, x: image[:, y : y + side, x : x + side]  # noqa: E731
    for (y, x), places in zip(references, found.tolist(), strict=True):
        near = [
            (float((cut(y, x) - cut(v, u)).square().sum()), v * columns + u)
            for v in range(max(0, y - 2), min(rows, y + 3))
            for u in range(max(0, x - 2), min(columns, x + 3))
        ]
        assert places == [place for _, place in sorted(near)[:n]]


def test_patches_of_one_gaussian_are_denoised_as_by_wiener():
    # Columns that each have one value: patches of an image of rank one a row, of covariance v 11ᵀ within a column.
    v, sigma = 0.04, 0.1
    x = (v**0.5 * randn(1, 1, 1, 48)).expand(1, 1, 48, 48)
    noisy = x + sigma * randn(1, 1, 48, 48, seed=1)
    found = nl_bayes(noisy, sigma, patch=5, window=31, num_similar=150)
    # Averaging a column within a patch alone divides the noise's variance by five.
    assert float((found - x).square().mean()) < sigma**2 / 5


def test_a_flat_image_becomes_its_mean():
    noisy = 0.5 + 0.1 * randn(1, 3, 32, 32)
    found = nl_bayes(noisy, 0.1)
    # A group of 81 patches of nine pixels averages some hundred values of one band.
    assert float((found - 0.5).square().mean().sqrt()) < 0.1 / 5


def test_without_noise_an_image_stays():
    x = torch.rand(2, 1, 16, 17, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nl_bayes(x, 1e-3), x, rtol=0, atol=1e-3)


def test_photographs_lose_most_of_their_noise(photographs):
    x = photographs[:2]
    noisy = x + 25 / 255 * randn(*x.shape).float()
    found = nl_bayes(noisy, 25 / 255)
    assert mean_psnr(found, x) > mean_psnr(noisy, x) + 6


@pytest.mark.parametrize("gain", [0.0, 0.004, 0.02])
def test_the_transform_makes_the_noise_white_and_its_inverse_unbiased(gain):
    stabiliser = Stabiliser(torch.tensor(0.03**2).double(), torch.tensor(gain).double())
    for signal in (0.1, 0.4, 0.9):
        y = signal + (0.03**2 + gain * signal) ** 0.5 * randn(400_000)
        value = stabiliser(y)
        # In the dark of a large gain the transform is but nearly stable: noise is a quarter of the signal there.
        assert float(value.std()) == pytest.approx(1, abs=0.07)
        assert float(stabiliser.inverse(value.mean())) == pytest.approx(signal, abs=0.02 * signal)


def test_inverse_filtering_solves_its_normal_equations():
    kernel = torch.outer(torch.tensor([0.1, 0.8, 0.1]), torch.tensor([0.2, 0.6, 0.2])).double()[None, None]
    physics = deepinv.physics.Blur(kernel, padding="reflect", noise_model=deepinv.physics.GaussianNoise(0.05))
    y = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y[0, 0, 1, 1] = torch.nan
    problem = LinearProblem.of(y, physics, device="cpu")
    found = inverse_filter(problem, torch.nan_to_num(y, nan=7.0), 0.01)
    basis = torch.eye(30, dtype=torch.float64).reshape(-1, 1, 5, 6)
    matrix = physics.A(basis).flatten(1).T
    rows = torch.cat(
        [(basis[:, :, 1:] - basis[:, :, :-1]).flatten(1), (basis[..., 1:] - basis[..., :-1]).flatten(1)], 1
    ).T
    for i in range(2):
        seen = torch.isfinite(y[i]).flatten()
        a = matrix[seen]
        expected = torch.linalg.solve(a.T @ a + 0.01 * rows.T @ rows, a.T @ y[i].flatten()[seen])
        torch.testing.assert_close(found[i].flatten(), expected, rtol=0, atol=1e-5)


def test_noise_that_grows_with_the_signal_is_taken_off(photographs):
    x = photographs[:1, :, :64, :64]
    psf = torch.ones(3, 3) / 9
    noise = SignalDependentNoise(0.02, 0.005)
    physics = deepinv.physics.Blur(psf[None, None], padding="reflect", noise_model=noise)
    y = physics.A(x)
    y = y + (0.02**2 + 0.005 * y).sqrt() * randn(*y.shape).float()
    y[..., 10, 10] = torch.nan
    found = bay_if(y, physics, device="cpu").mmse_x()
    assert mean_psnr(found, x) > mean_psnr(torch.nan_to_num(y, nan=0.5), x) + 1


def test_small_images_and_other_measurements_are_told():
    with pytest.raises(ValueError, match="patch must fit"):
        nl_bayes(torch.rand(1, 1, 4, 8), 0.1)
    with pytest.raises(ValueError, match="an odd whole number"):
        nl_bayes(torch.rand(1, 1, 8, 8), 0.1, window=4)
