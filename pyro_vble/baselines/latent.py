"""Points in latent space: the most probable latent, and the one that fits best whatever its probability."""

from typing import Any

from pyro_vble._arguments import Count, Seed, checked
from pyro_vble.guides import MAPz
from pyro_vble.inference.precision import Device
from pyro_vble.restoration import restore
from pyro_vble.samples import Mixture, Posterior


@checked
def map_z(
    y: Any,
    physics: Any,
    prior: Any,
    *,
    num_steps: Count = 300,
    seed: Seed | None = None,
    device: Device = "auto",
    **settings: Any,
) -> Posterior | Mixture:
    r"""MAP-z: the image of the latent of highest posterior density.

    .. math:: \hat x = D(\hat z), \qquad \hat z, \hat h = \arg\max\; \log p(y|D(z)) + \log p(z|h) + \log p(h)

    It is :func:`pyro_vble.restore` with :class:`~pyro_vble.guides.MAPz`.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: The operator with its noise model; any that has a gradient.
        prior: A prior, or a name or path for :func:`pyro_vble.load_prior`.
        num_steps: Steps of Adam.
        seed: Seed; the search is deterministic but for what other guides would draw.
        device: "auto" (CUDA where there is one) or a torch device.
        settings: Others of ``restore``: ``lr``, ``kl_weight``, ``num_fits`` ...

    Returns:
        A posterior without width.

    Raises:
        TypeError: If an argument is of a wrong kind.
        ValueError: If y does not fit the operator, the prior or its scale, or a setting is out of range.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import map_z
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> map_z(torch.rand(1, 1, 28, 28), physics, "vae-mnist", num_steps=3, progress=False).mmse_z.shape
        torch.Size([1, 1, 28, 28])
    """
    return restore(y, physics, prior, guide=MAPz, num_steps=num_steps, seed=seed, device=device, **settings)


@checked
def csgm(
    y: Any,
    physics: Any,
    prior: Any,
    *,
    num_steps: Count = 300,
    seed: Seed | None = None,
    device: Device = "auto",
    **settings: Any,
) -> Posterior | Mixture:
    r"""CSGM: the image in the decoder's range that explains the measurement best.

    .. math:: \hat x = D(\hat z), \qquad \hat z = \arg\max\; \log p(y|D(z))

    started from the encoder's view of a first guess, where the authors start at random and again: ``num_fits`` does so
    too. It is :func:`map_z` without the prior; where the decoder can make noise, it does.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: The operator with its noise model; any that has a gradient.
        prior: A prior, or a name or path for :func:`pyro_vble.load_prior`.
        num_steps: Steps of Adam.
        seed: Seed of the starts of further fits.
        device: "auto" (CUDA where there is one) or a torch device.
        settings: Others of ``restore``: ``lr``, ``num_fits`` ...

    Returns:
        A posterior without width.

    Raises:
        TypeError: If an argument is of a wrong kind.
        ValueError: If y does not fit the operator, the prior or its scale, or a setting is out of range.

    References:
        | Compressed sensing using generative models (Bora et al., 2017), eq. 3
        | https://arxiv.org/abs/1703.03208

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import csgm
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> csgm(torch.rand(1, 1, 28, 28), physics, "vae-mnist", num_steps=3, progress=False).mmse_z.shape
        torch.Size([1, 1, 28, 28])
    """
    return map_z(y, physics, prior, num_steps=num_steps, seed=seed, device=device, kl_weight=0.0, **settings)
