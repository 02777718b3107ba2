"""How a posterior is fitted: the options that ``restore`` and ``calibrate`` must have in common."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.guides import GUIDES, Guide


@dataclass(frozen=True)
class Fit:
    """Guide, prior and settings; each field is an option."""

    guide: Annotated[Guide, typer.Option(**options.choice(GUIDES, "Variational family."))] = GUIDES["vble-xz-free"]
    prior: options.Prior = "cae-bsd"
    alpha: options.Alpha = None
    steps: options.Steps = 60
    lr: options.LearningRate = 0.2
    kl_weight: options.KLWeight = 1.0
    rate_scale: options.RateScale = "1"
    symmetries: options.Symmetries = None
    samples: options.Samples = 100
    seed: options.Seed = 0
    device: options.Device = "auto"
    precision: options.Precision = "auto"

    @property
    def num_fits(self) -> int:
        """How many fits a restoration takes."""
        from pyro_vble.models.turned import SYMMETRIES

        return 1 if self.symmetries is None else len(SYMMETRIES[self.symmetries])

    def load_prior(self) -> Any:
        """The prior."""
        from pyro_vble import load_prior

        return load_prior(self.prior, alpha=self.alpha)

    def restore(self, y: Any, physics: Any, prior: Any) -> Any:
        """The posterior of a measurement."""
        import pyro_vble as pv

        return pv.restore(
            y,
            physics,
            prior,
            guide=self.guide.load(),
            num_steps=self.steps,
            lr=self.lr,
            kl_weight=self.kl_weight,
            rate_scale=self.rate_scale,
            symmetries=self.symmetries,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )
