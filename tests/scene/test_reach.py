"""How far networks and operators reach, against what a changed latent or pixel changes."""

from functools import partial

import deepinv
import pytest
import torch
from deepinv.physics.functional import gaussian_blur
from helpers import small_network

from pyro_vble.models import CAE
from pyro_vble.physics import OpticalMTF, OpticalSensor, point_spread_function
from pyro_vble.scene.operators import scene_operator
from pyro_vble.scene.reach import decoder_reach, operator_reach

AROUND = 6


def changed(prior: CAE, row: int, column: int) -> bool:
    """Whether the pixels of the latent in the middle change with another latent."""
    side = 2 * AROUND + 1
    channels = prior.encode(torch.rand(1, 3, 64, 64))["z"].shape[1]
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, channels, side, side, generator=generator)
    other = z.clone()
    other[..., AROUND + row, AROUND + column] += 10
    part = slice(16 * AROUND, 16 * (AROUND + 1))
    return any(
        not torch.equal(a[..., part, part], b[..., part, part])
        for a, b in zip(prior.decode(z), prior.decode(other), strict=True)
    )


@pytest.mark.parametrize("architecture", ["ScaleHyperprior", "MeanScaleHyperprior", "bundled"])
@torch.no_grad()
def test_a_decoder_reaches_just_so_far(architecture, bundled):
    prior = bundled if architecture == "bundled" else CAE(small_network(architecture), alpha=0.025)
    reach = decoder_reach(prior)
    assert 1 <= reach < AROUND
    for beyond in range(reach + 1, AROUND + 1):
        for place in ((beyond, 0), (-beyond, 0), (0, beyond), (0, -beyond), (beyond, beyond), (-beyond, beyond)):
            assert not changed(prior, *place), place
    assert any(changed(prior, *place) for place in ((reach, 0), (-reach, 0), (0, reach), (0, -reach)))


class _Wide(torch.nn.Module):
    """A decoder of standard deviations that reaches further than that of means."""

    def __init__(self, channels: int, reach: int) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(channels, 3, 2 * reach + 1, padding=reach)

    def forward(self, z):
        return torch.nn.functional.interpolate(self.mix(z).exp(), scale_factor=16)


def test_the_decoder_of_standard_deviations_counts_too_and_too_far_is_refused():
    torch.manual_seed(0)
    assert decoder_reach(CAE(small_network(), alpha=0.025, decoder_std=_Wide(12, 5))) == 5
    with pytest.raises(ValueError, match=r"reaches less than 8 latents.*in one piece"):
        decoder_reach(CAE(small_network(), alpha=0.025, decoder_std=_Wide(12, 8)))


def _kernel(rows: int, columns: int) -> torch.Tensor:
    return torch.rand(1, 1, rows, columns, generator=torch.Generator().manual_seed(0)) + 0.1


@pytest.mark.parametrize("padding", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (7, 3), (1, 31)])
def test_a_blur_reaches_half_its_kernel(rows, columns, padding):
    blur = deepinv.physics.Blur(filter=_kernel(rows, columns), padding=padding)
    assert operator_reach(scene_operator(blur, 1), 1) == max(rows, columns) // 2


def test_an_even_kernel_reaches_to_its_longer_side():
    blur = deepinv.physics.Blur(filter=_kernel(4, 4), padding="reflect")
    assert operator_reach(scene_operator(blur, 1), 1) == 2


def test_a_wide_kernel_is_asked_about_on_a_larger_image():
    blur = deepinv.physics.Blur(filter=_kernel(1, 161), padding="reflect")
    assert operator_reach(scene_operator(blur, 1), 1) == 80


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("padding", ["reflect", "replicate", "constant"])
def test_a_sensor_reaches_its_radius(scale, padding):
    psf = point_spread_function(OpticalMTF(along=0.15, across=0.2), scale=scale)
    sensor = OpticalSensor(psf, scale=scale, padding=padding)
    operator = scene_operator(sensor, 3)
    assert operator.ratio == scale
    # Less where the rim of the point-spread function is a millionth of its peak, or zeros that fill up a block.
    assert sensor.radius - scale < operator_reach(operator, 3) <= sensor.radius


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_downsampling_reaches_beyond_its_own_block(factor):
    make = lambda shape: deepinv.physics.Downsampling(  # noqa: E731
        img_size=shape, filter="bicubic", factor=factor, padding="reflect"
    )
    operator = scene_operator(make, 1)
    assert operator.ratio == factor
    width = make((1, 60, 60)).filter.shape[-1]
    assert factor < operator_reach(operator, 1) <= width // 2


def _circular_sensor(shape):
    return OpticalSensor(point_spread_function(OpticalMTF(along=0.15, across=0.15)), padding="circular")


WRAPPING = {
    "blur": deepinv.physics.Blur(filter=gaussian_blur(sigma=(1.0, 1.0)), padding="circular"),
    "sensor": _circular_sensor,
    "fourier": lambda shape: deepinv.physics.BlurFFT(img_size=shape, filter=gaussian_blur(sigma=(1.0, 1.0))),
    "downsampling": lambda shape: deepinv.physics.Downsampling(
        img_size=shape, filter="bicubic", factor=2, padding="circular"
    ),
}


@pytest.mark.parametrize("name", WRAPPING)
def test_what_wraps_around_is_refused(name):
    """A tile cannot know the other end of the scene."""
    with pytest.raises(ValueError, match="does not wrap around, such as"):
        operator_reach(scene_operator(WRAPPING[name], 1), 1)


class _Tapered(deepinv.physics.LinearPhysics):
    """An operator that belongs to places: it fades towards the right."""

    def A(self, x, **kwargs):
        return x * torch.linspace(1, 0.5, x.shape[-1])


class _Mean(deepinv.physics.LinearPhysics):
    """Every value depends on every pixel."""

    def A(self, x, **kwargs):
        return x + x.mean((-2, -1), keepdim=True)


class _Bayer(deepinv.physics.LinearPhysics):
    """An operator with a period that divides a tile's side."""

    def A(self, x, **kwargs):
        x = x.clone()
        x[..., ::2, 1::2] *= 0.5
        return x


def test_operators_that_belong_to_places_or_to_the_whole_are_refused():
    with pytest.raises(ValueError, match=r"their own place.*NaN"):
        operator_reach(scene_operator(_Tapered(), 1), 1)
    with pytest.raises(ValueError, match="tile by tile"):
        operator_reach(scene_operator(_Mean(), 1), 1)
    mask = lambda shape: deepinv.physics.Inpainting(  # noqa: E731
        img_size=shape, mask=(torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    )
    with pytest.raises(ValueError, match="NaN in place of a mask"):
        operator_reach(scene_operator(mask, 1), 1)
    assert operator_reach(scene_operator(_Bayer(), 1), 1) == 0


def test_operators_that_a_scene_cannot_have_are_refused_with_a_remedy():
    with pytest.raises(TypeError, match="function from"):
        scene_operator("blur", 1)
    with pytest.raises(ValueError, match="keeps the size"):
        scene_operator(deepinv.physics.Blur(filter=_kernel(5, 5), padding="valid"), 1)
    with pytest.raises(ValueError, match="pass a function from"):
        scene_operator(deepinv.physics.Inpainting(img_size=(1, 8, 8), mask=torch.ones(1, 8, 8)), 1)

    class _Flat(deepinv.physics.LinearPhysics):
        def A(self, x, **kwargs):
            return x.flatten()

    with pytest.raises(ValueError, match="keeps the size"):
        scene_operator(_Flat(), 1)


def test_the_operator_is_left_as_it_was_and_the_generator_too():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    blur = deepinv.physics.Blur(filter=_kernel(3, 3), padding="reflect")
    operator_reach(scene_operator(blur, 3), 3)
    assert blur.filter.shape == (1, 1, 3, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_words_tell_operators_apart_that_differ_in_anything():
    psf = point_spread_function(OpticalMTF(along=0.15, across=0.15))
    make = partial(OpticalSensor, psf)
    operators = [
        make(),
        make(padding="replicate"),
        make(bits=12),
        make(bits=10),
        make(noise_model=deepinv.physics.GaussianNoise(0.1)),
        make(noise_model=deepinv.physics.GaussianNoise(0.2)),
        OpticalSensor(point_spread_function(OpticalMTF(along=0.16, across=0.15))),
    ]
    words = [scene_operator(physics, 1).words for physics in operators]
    assert len(set(words)) == len(words)
    assert scene_operator(make(bits=12), 1).words == words[2]
