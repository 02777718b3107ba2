"""How a posterior is fitted: the options that ``restore`` and ``calibrate`` must have in common."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.guides import GUIDES, Guide


@dataclass(frozen=True)
class Fit:
    """Guide, prior and settings; each field is an option."""

    guide: Annotated[
        Guide | None,
        typer.Option(
            **options.choice(
                GUIDES,
                "Guide: what kind of distribution is fitted to the image, which decides its error bars. By default "
                "vble-xz-free, with --quality accurate vble-xz-correlated.",
            )
        ),
    ] = None
    prior: options.Prior = "cae-bsd"
    alpha: options.Alpha = None
    quality: options.Quality = "fast"
    steps: options.Steps | None = None
    lr: options.LearningRate = 0.2
    kl_weight: options.KLWeight = 1.0
    rate_scale: options.RateScale = "1"
    symmetries: options.Symmetries = None
    linearised: options.Linearised = False
    samples: options.Samples = 100
    seed: options.Seed = 0
    device: options.Device = "auto"
    precision: options.Precision = "auto"

    @property
    def family(self) -> Guide:
        """The guide, named or by quality."""
        return self.guide or GUIDES[{"fast": "vble-xz-free", "accurate": "vble-xz-correlated"}[self.quality]]

    @property
    def num_steps(self) -> int:
        """Steps of a fit, told or by quality."""
        from pyro_vble.inference.settings import FitSettings

        return FitSettings.of(self.quality, num_steps=self.steps).num_steps

    @property
    def num_fits(self) -> int:
        """How many fits a restoration takes."""
        from pyro_vble.models.turned import SYMMETRIES

        return 1 if self.symmetries is None else len(SYMMETRIES[self.symmetries])

    def drawn(self, posterior: Any) -> Any:
        """What statistics and draws are of: the posterior, or its linearised draws."""
        return posterior.linearised(self.samples) if self.linearised else posterior

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
            guide=self.family.load(),
            num_steps=self.num_steps,
            lr=self.lr,
            kl_weight=self.kl_weight,
            rate_scale=self.rate_scale,
            symmetries=self.symmetries,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )
