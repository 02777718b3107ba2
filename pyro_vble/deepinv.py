"""This library where deepinv expects one of its own reconstruction methods: ``model(y, physics)``."""

import os
from typing import Annotated, Any

from deepinv.models import Reconstructor
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, Flag, Rule, Seed, checked, one_of
from pyro_vble.models.freezing import frozen
from pyro_vble.models.prior import check_prior
from pyro_vble.restoration import restore
from pyro_vble.samples import Mixture, Posterior

__all__ = ["VBLEReconstructor"]


def _guide(value: Any) -> Any:
    if value is not None and not callable(value):
        raise BrokenRuleError("type")
    return value


Guide = Annotated[Any, Rule("a guide class, any callable (model, y) -> guide, or None", _guide)]
Estimate = Annotated[str, one_of("mmse_x", "mmse_z")]


@checked
class VBLEReconstructor(Reconstructor):
    r"""Variational restoration as a ``deepinv.models.Reconstructor``: ``model(y, physics)`` gives the estimate.

    It stands wherever deepinv takes a reconstruction method (``deepinv.test``, ``Trainer``), and with ``sample``, which
    returns mean and variance as deepinv's samplers do, in their place. Everything else is in ``posterior``, that of the
    last call.

    Args:
        prior: A prior, or a name or path for :func:`pyro_vble.load_prior`.
        guide: The variational family; :func:`pyro_vble.restore`'s by default.
        estimate: "mmse_x", the mean of image samples, or "mmse_z", the decoded centre.
        num_samples: Samples behind mean and variance.
        seed: Seed of fits and samples; a call's own goes before it.
        progress: Show a bar for every fit.
        settings: Others of ``restore``: ``quality``, ``num_steps``, ``precision`` ...

    Attributes:
        posterior: The posterior of the last call, or None.

    Raises:
        TypeError: If the prior is none, or an argument of a wrong kind.
        ValueError: If an argument is out of range.

    Example:
        >>> import torch, deepinv as dinv
        >>> import pyro_vble as pv
        >>> physics = dinv.physics.Denoising(dinv.physics.GaussianNoise(0.1))
        >>> model = pv.deepinv.VBLEReconstructor("vae-mnist", num_steps=3, num_samples=4, seed=0)
        >>> model(torch.rand(2, 1, 28, 28), physics).shape
        torch.Size([2, 1, 28, 28])
    """

    posterior: Posterior | Mixture | None

    def __init__(
        self,
        prior: Any,
        guide: Guide = None,
        *,
        estimate: Estimate = "mmse_x",
        num_samples: Count = 100,
        seed: Seed | None = None,
        progress: Flag = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        if isinstance(prior, str | os.PathLike):
            from pyro_vble.io.priors import load_prior

            prior = load_prior(prior)
        check_prior(prior)
        self.prior = frozen(prior)  # once: every fit shares what is frozen
        self.guide, self.estimate, self.num_samples = guide, estimate, num_samples
        self.settings: dict[str, Any] = {"seed": seed, "progress": progress, **settings}
        self.posterior = None

    def forward(self, y: Tensor, physics: Any, **kwargs: Any) -> Tensor:
        """The estimate of the image, (B, C, H, W), where y is.

        Args:
            y: Measurement; NaN where unobserved.
            physics: The operator with its noise model.
            kwargs: Settings of ``restore`` for this call.
        """
        posterior = self.restore(y, physics, **kwargs)
        return posterior.mmse_z if self.estimate == "mmse_z" else posterior.mmse_x(self.num_samples)

    def sample(self, y: Tensor, physics: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Mean and variance of every pixel, each (B, C, H, W), as deepinv's samplers return them."""
        posterior = self.restore(y, physics, **kwargs)
        seed = posterior.lasting_seed(None)
        mean = posterior.mmse_x(self.num_samples, seed=seed)
        return mean, posterior.std(self.num_samples, seed=seed) ** 2

    def restore(self, y: Tensor, physics: Any, **kwargs: Any) -> Posterior | Mixture:
        """The posterior, which is kept as ``posterior``; computed where y is unless ``device`` says otherwise."""
        settings: dict[str, Any] = (
            {"device": str(y.device) if isinstance(y, Tensor) else "auto"} | self.settings | kwargs
        )
        self.posterior = restore(y, physics, self.prior, self.guide, **settings)
        return self.posterior
