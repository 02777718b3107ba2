"""MAP-z: the most probable latent."""

from torch import Tensor

from pyro_vble.guides.mean_field import MeanFieldGuide
from pyro_vble.guides.point import PointFactor
from pyro_vble.models.restoration import RestorationModel


class MAPz(MeanFieldGuide):
    r"""A point mass on the latents: the maximum a posteriori estimate in latent space.

    .. math:: \hat z, \hat h = \arg\max\; \log p(y \mid D(z)) + \lambda \big[\log p(z|h) + \log p(h)\big]

    With ``kl_weight=0`` this is CSGM, least squares in the range of the decoder.

    References:
        | Compressed sensing using generative models (Bora et al., 2017), eq. 3
        | https://arxiv.org/abs/1703.03208

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel` without latent image.
        y: Measurement (B, ...), whose encoding starts the search.

    Raises:
        ValueError: If y does not fit the model.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import MAPz
        >>> from pyro_vble.models import RestorationModel
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(1, 3, 64, 64)
        >>> guide = MAPz(RestorationModel(load_prior("cae-bsd"), physics), y)
        >>> bool((guide(y)["z"] == guide.median()["z"]).all())
        True
    """

    def __init__(self, model: RestorationModel, y: Tensor) -> None:
        start = model.start(y, informed=False)  # a point has no width to inform
        super().__init__(model, {site: PointFactor(s.loc, s.std, s.support) for site, s in start.items()})
