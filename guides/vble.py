"""VBLE: variational Bayes latent estimation."""

from typing import Any

from torch import Tensor

from pyro_vble.guides.mean_field import FAMILIES, MeanFieldGuide, factor_of, latent_family
from pyro_vble.models.restoration import RestorationModel


class VBLE(MeanFieldGuide):
    r"""The mean-field guide q(z, h) with a free centre and width for every latent of this image; x = D(z).

    .. math:: q(z, h) = \textstyle\prod_k \mathcal U(\bar z_k \pm \tfrac{a_k}2) \prod_k
        \mathcal U(\bar h_k \pm \tfrac{b_k}2) \quad\text{or}\quad
        \prod_k \mathcal N(\bar z_k, a_k^2) \prod_k \mathcal N(\bar h_k, b_k^2)

    or, correlated between the channels of every position p (:class:`ChannelFactor`),

    .. math:: q(z, h) = \textstyle\prod_p \mathcal N\big(\bar z_p, \mathrm{diag}(a_p)\, C_p\, \mathrm{diag}(a_p)\big)
        \prod_k \mathcal N(\bar h_k, b_k^2)

    References:
        | Variational Bayes image restoration with compressive autoencoders (Biquard et al., 2025), section III.C
        | https://arxiv.org/abs/2311.17744

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel` without latent image.
        y: Measurement (B, ...), whose encoding starts the centres.
        family: "gaussian" (by default), "uniform" (the encoder family of a CAE, as published), or "correlated":
            Gaussian, z with the correlations of a linear decoder.

    Raises:
        ValueError: If the family is unknown, or y does not fit the model; if z is to be correlated and has no channels.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import VBLE
        >>> from pyro_vble.models import RestorationModel
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(1, 3, 64, 64)
        >>> guide = VBLE(RestorationModel(load_prior("cae-bsd"), physics), y)
        >>> {site: tuple(value.shape) for site, value in guide(y).items()}
        {'h': (1, 64, 1, 1), 'z': (1, 128, 4, 4)}
    """

    def __init__(self, model: RestorationModel, y: Tensor, *, family: str | None = None) -> None:
        family = latent_family(model.prior, family)
        start = model.start(y, correlated=family == "correlated")
        super().__init__(model, {site: factor_of(start[site], FAMILIES[family]) for site in start})
        self.family = family

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this guide again."""
        return {"family": self.family}
