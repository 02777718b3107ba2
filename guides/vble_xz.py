"""VBLE-xz: variational Bayes latent estimation with the image as a latent."""

from typing import Any

from torch import Tensor

from pyro_vble.guides.gaussian import GaussianFactor
from pyro_vble.guides.mean_field import FAMILIES, MeanFieldGuide, factor_of, latent_family
from pyro_vble.models.restoration import RestorationModel

_B_BOUNDS = (1e-4, 3.0)


class VBLExz(MeanFieldGuide):
    r"""The guide q(z, h) q(x|z), with one free standard deviation for every pixel and band.

    .. math:: q(x|z) = \mathcal N\big(D(z) + \sigma_\theta(z) u,\; (b\, \sigma_\theta(z))^2\big)

    with u = 0 in the published form, free with ``free_mean``. The model decentres the image, x = D(z) + σ(z) e, so
    that this is the mean-field factor q(e) = N(u, b²), and the guide needs no decoder. With a free mean the image
    may leave the decoder's range, and with a linear decoder its mean is the exact posterior mean.

    References:
        | Deep priors for satellite image restoration with accurate uncertainties (Biquard et al., 2024), section III
        | https://arxiv.org/abs/2412.04130

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel` with ``latent_image=True``.
        y: Measurement (B, ...), whose encoding starts the centres.
        family: Family of q(z, h), as of :class:`VBLE`: "gaussian" (by default), "uniform" or "correlated".
        free_mean: Whether u is free.

    Raises:
        ValueError: If the family is unknown, y does not fit the model, or the model has no latent image; if z is to be
            correlated and has no channels.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import VBLExz
        >>> from pyro_vble.models import RestorationModel
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(1, 3, 64, 64)
        >>> model = RestorationModel(load_prior("cae-bsd"), physics, latent_image=VBLExz.latent_image)
        >>> guide = VBLExz(model, y)
        >>> guide.b.shape, bool((guide.b <= 1).all())
        (torch.Size([1, 3, 64, 64]), True)
    """

    latent_image = True

    def __init__(
        self, model: RestorationModel, y: Tensor, *, family: str | None = None, free_mean: bool = False
    ) -> None:
        family = latent_family(model.prior, family)
        start = model.start(y, correlated=family == "correlated")
        e = start.pop("x_decentered", None)
        factors = {site: factor_of(start[site], FAMILIES[family]) for site in start}
        if e is not None:  # otherwise the model has no latent image, which is refused by name
            factors["x_decentered"] = GaussianFactor(e.loc, e.std, bounds=_B_BOUNDS, free_loc=free_mean, informed=False)
        super().__init__(model, factors)
        self.family, self.free_mean = family, free_mean

    @property
    def loc(self) -> dict[str, Tensor]:
        """Centres of the latents by site, (B, *event)."""
        return {site: loc for site, loc in super().loc.items() if site != "x_decentered"}

    @property
    def width(self) -> dict[str, Tensor]:
        """Widths of the latents by site: full width of a uniform factor, standard deviation of a Gaussian one."""
        return {site: width for site, width in super().width.items() if site != "x_decentered"}

    @property
    def b(self) -> Tensor:
        """Standard deviation of x given z in units of σ_θ(z), (B, C, H, W)."""
        return self.factors["x_decentered"].width.detach()

    @property
    def u(self) -> Tensor:
        """Mean of x given z, less D(z), in units of σ_θ(z), (B, C, H, W); zero unless ``free_mean``."""
        return self.factors["x_decentered"].loc.detach()

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this guide again."""
        return {"family": self.family, "free_mean": self.free_mean}
