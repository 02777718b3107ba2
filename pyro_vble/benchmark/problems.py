"""The problems of a benchmark: what is measured, by which operator and with which noise."""

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from pyro_vble._extras import extra
from pyro_vble.physics.problems import deblurring, gaussian_kernel, inpainting, super_resolution
from pyro_vble.seeding import derived_seed, seeded

ImageShape = tuple[int, int, int]


class Plain(BaseModel):
    """Settings that cannot be changed, and have no key that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Published(Plain):
    """What the authors of VBLE chose for a problem.

    Attributes:
        alpha: Bitrate parameter of their network.
        kl_weight: λ.
    """

    alpha: float = Field(gt=0)
    kl_weight: float = Field(ge=0)


class _Problem(Plain):
    label: str
    published: Published | None = None


class Deblurring(_Problem):
    """Gaussian blur and white noise.

    Attributes:
        blur_sigma: Standard deviation of the blur, in pixels.
        noise_255: Standard deviation of the noise, times 255.
    """

    kind: Literal["deblur"]
    blur_sigma: float = Field(gt=0)
    noise_255: float = Field(ge=0)

    def physics(self, image_shape: ImageShape, seed: int) -> Any:
        """The operator."""
        return deblurring(self.noise_255 / 255, gaussian_kernel(self.blur_sigma))


class MotionDeblurring(_Problem):
    """Blur along a random path, drawn once for the problem and the same for all images, and white noise.

    Attributes:
        size: Side of the kernel.
        length: Length scale of the path.
        spread: Standard deviation of the path.
        path: Seed of the path.
        noise_255: Standard deviation of the noise, times 255.
    """

    kind: Literal["motion"]
    size: int = Field(default=25, ge=3)
    length: float = Field(default=0.3, gt=0)
    spread: float = Field(default=0.25, gt=0)
    path: int = 0
    noise_255: float = Field(ge=0)

    def physics(self, image_shape: ImageShape, seed: int) -> Any:
        """The operator."""
        from deepinv.physics.generator import MotionBlurGenerator

        size = (self.size, self.size)
        generator = MotionBlurGenerator(psf_size=size, l=self.length, sigma=self.spread)
        with seeded(self.path):
            kernel = generator.step(batch_size=1, seed=self.path)["filter"][0, 0]
        return deblurring(self.noise_255 / 255, kernel)


class SuperResolution(_Problem):
    """Bicubic decimation, noise-free unless told.

    Attributes:
        factor: How many times as wide the image is.
        noise_255: Standard deviation of the noise, times 255.
    """

    kind: Literal["super-resolve"]
    factor: int = Field(ge=2)
    noise_255: float = Field(default=0.0, ge=0)

    def physics(self, image_shape: ImageShape, seed: int) -> Any:
        """The operator."""
        return super_resolution(self.noise_255 / 255, image_shape, self.factor)


class Inpainting(_Problem):
    """Missing pixels, others for every image, and white noise on those that are observed.

    Attributes:
        observed: Part of the pixels that is observed.
        noise_255: Standard deviation of the noise, times 255.
    """

    kind: Literal["inpaint"]
    observed: float = Field(gt=0, le=1)
    noise_255: float = Field(ge=0)

    def physics(self, image_shape: ImageShape, seed: int) -> Any:
        """The operator; its mask follows from the seed."""
        generator = torch.Generator().manual_seed(derived_seed(seed, "mask") or 0)
        mask = (torch.rand(1, *image_shape[1:], generator=generator) < self.observed).float()
        return inpainting(self.noise_255 / 255, mask.expand(image_shape).clone())


class Sensing(_Problem):
    """An optical sensor: its transfer function, noise and bits.

    Attributes:
        sensor: A sensor that comes with the package, or the path of a file.
        scale: How many times as fine as the sensor's the image's grid is.
    """

    kind: Literal["sensor"]
    sensor: str
    scale: int = Field(default=1, ge=1, le=8)

    def physics(self, image_shape: ImageShape, seed: int) -> Any:
        """The operator."""
        with extra("benchmark"):
            from pyro_vble.sensors import load_sensor

            return load_sensor(self.sensor).physics(self.scale)


Problem = Annotated[Deblurring | MotionDeblurring | SuperResolution | Inpainting | Sensing, Field(discriminator="kind")]


def measured(problem: Any, truth: torch.Tensor, seed: int) -> tuple[torch.Tensor, Any]:
    """A measurement of an image and its operator, both on the CPU: the same whoever restores it, and where.

    Args:
        problem: The problem.
        truth: (1, C, H, W) in [0, 1], on the CPU.
        seed: Seed of noise and mask.

    Example:
        >>> import torch
        >>> from pyro_vble.benchmark.problems import Deblurring, measured
        >>> problem = Deblurring(kind="deblur", label="blur", blur_sigma=1.0, noise_255=2.55)
        >>> measured(problem, torch.rand(1, 3, 32, 32), seed=0)[0].shape
        torch.Size([1, 3, 32, 32])
    """
    _, bands, height, width = truth.shape
    physics = problem.physics((bands, height, width), seed)
    with torch.no_grad(), seeded(derived_seed(seed, "noise")):
        return physics(truth), physics
