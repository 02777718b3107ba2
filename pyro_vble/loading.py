"""Posteriors from their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vble._arguments import Flag, Function, PathName, brief, checked
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.guides.building import wants_latent_image
from pyro_vble.guides.reference import maker_of
from pyro_vble.inference import resolve_device
from pyro_vble.inference.precision import Device, dtype_of
from pyro_vble.io.families import distribution_of
from pyro_vble.io.posterior_files import PosteriorHeader, check_sizes, part_of, read_posterior_file, wrong
from pyro_vble.models import Prior, RestorationModel
from pyro_vble.models.freezing import frozen
from pyro_vble.models.identity import fingerprint
from pyro_vble.models.turned import TURNS, UPRIGHT, TurnedPrior, upright
from pyro_vble.physics import jointly, measure, operator_on
from pyro_vble.samples import Mixture, Posterior
from pyro_vble.samples.saving import check_options, rebuilt

# Of a prior's settings, those that a file may leave to be told.
_TOLD = ("alpha", "distortion", "rate_scale")


@one_at_a_time
@checked
def load_posterior(
    path: PathName,
    *,
    prior: Prior | None = None,
    physics: Any = None,
    guide: Function | None = None,
    device: Device = "cpu",
    allow_download: Flag = False,
) -> Posterior | Mixture:
    """Read a posterior that :meth:`Posterior.save` wrote.

    Args:
        path: The file.
        prior: The prior, where it was not loaded by name (one of your own).
        physics: The forward operator, or the list of them: what has to do with measurements needs it (``predictive``,
            ``draws``, most groups of ``to_arviz``, Markov chains, further fitting).
        guide: What makes the guide, as ``restore`` takes it, where it is neither this library's nor Pyro's and its
            module is not imported: a file cannot have anything imported by itself.
        device: Where to put it; "auto" is CUDA where there is one.
        allow_download: Whether a prior that the file names, and that is not on this machine, may be downloaded from
            the Hugging Face Hub or the CompressAI zoo.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind, the prior or the guide is missing or another one, or the
            operator does not measure such images so.

    Example:
        >>> import tempfile, torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     posterior.save(f"{folder}/fit.pvble")
        ...     again = pv.load_posterior(f"{folder}/fit.pvble")
        >>> bool((again.mmse_x(4) == posterior.mmse_x(4)).all())
        True
    """
    device = resolve_device(device)
    path = Path(path)
    header, tensors = read_posterior_file(path)
    maker = _maker(path, header) if guide is None else guide
    try:
        priors = {name: distribution_of(family) for name, family in header.physics_priors.items()}
        check_options(maker)
        check_sizes(header, tensors)
    except (ValueError, TypeError) as error:
        raise wrong(path, str(error)) from error
    prior = _prior_of(path, header, prior, allow_download)
    dtype = dtype_of(header.precision)
    y = tensors["y"].to(device)
    if isinstance(physics, list | tuple) or type(physics).__name__.startswith("Stacked"):
        physics = jointly(physics, header.image_shape)
    if physics is not None:
        physics = operator_on(physics, device, dtype)
        _check_measurement(path, physics, header.image_shape, y)
    try:
        latent_image = header.latent_image
        if latent_image is None:  # a file from before it was told
            latent_image = wants_latent_image(maker)
        own = frozen(prior).to(device, dtype)
        turns = header.num_fits * [UPRIGHT] if header.turns is None else [TURNS[turn] for turn in header.turns]
        models = {}
        for turn in dict.fromkeys(turns):
            turned = own if turn == UPRIGHT else TurnedPrior(own, turn)
            turned.validate_image_shape(header.image_shape)
            models[turn] = RestorationModel(turned, None, latent_image=latent_image, image_shape=header.image_shape)
            models[turn].physics_priors = priors
            models[turn].physics = physics
        states = [part_of(tensors, f"guide{k}.") for k in range(header.num_fits)]
        guides = [rebuilt(maker, models[turn], y, state) for turn, state in zip(turns, states, strict=True)]
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        # A guide is built for whatever a file holds: what that raises is about the file.
        raise wrong(path, f"{' '.join(str(error).split())[:500]}") from error
    told = {"precision": header.precision, "maker": maker}
    fits = [
        Posterior(models[turn], guide, y, elbo=tensors[f"elbo{k}"], seed=seed, **told)
        for k, (turn, guide, seed) in enumerate(zip(turns, guides, header.seeds, strict=True))
    ]
    posterior = fits[0] if len(fits) == 1 else Mixture(fits)
    posterior.interrupted = header.interrupted
    if header.calibration is None:
        return posterior
    from pyro_vble.diagnostics.conformal import Calibration

    return posterior.calibrated(Calibration.from_dict(header.calibration, f"the calibration in {path}"))


def _maker(path: Path, header: PosteriorHeader) -> Callable:
    told = header.guide
    try:
        return maker_of(told.module, told.name, told.options)
    except LookupError as error:
        if told.module in ("pyro_vble.guides", "pyro.infer.autoguide"):
            raise wrong(path, f"its guide must be a guide class of {told.module}; it is {brief(told.name)}") from error
        raise ValueError(
            f"{path} was fitted with the guide {brief(told.name)} of the module {brief(told.module)}, which is not "
            "imported; import it, or pass guide=... as to restore."
        ) from error


@torch.no_grad()
def _check_measurement(path: Path, physics: Any, image_shape: tuple[int, int, int], y: Tensor) -> None:
    """Raise ValueError unless the operator measures such images as y was measured."""
    blank = torch.zeros(len(y), *image_shape, dtype=y.real.dtype if y.is_complex() else y.dtype, device=y.device)
    try:
        found: Any = tuple(measure(physics, blank).shape)
    except Exception as error:  # an operator may refuse in any way
        found = f"an error ({type(error).__name__}: {brief(str(error))})"
    if found != tuple(y.shape):
        raise ValueError(
            f"physics must measure images of shape {image_shape} as {path} holds them, {tuple(y.shape)}; its A gives "
            f"{found}; pass the operator of that fit."
        )


def _prior_of(path: Path, header: PosteriorHeader, prior: Prior | None, allow_download: bool) -> Prior:
    if prior is None:
        if header.prior is None:
            raise ValueError(
                f"{path} was fitted with a prior of your own, which is not saved with it; pass prior=..., the same "
                "prior."
            )
        prior = _named_prior(path, header, header.prior, allow_download)
    prior = upright(prior)
    if _plain(prior.settings) != header.prior_settings:
        raise ValueError(
            f"The prior must be the one that the posterior was fitted with, {header.prior_settings}; received "
            f"{prior.settings}; pass that prior as prior=..."
        )
    found = fingerprint(prior)
    if found != header.prior_fingerprint:
        raise ValueError(
            "The prior must be the one that the posterior was fitted with (weights "
            f"{brief(header.prior_fingerprint)}, name {brief(header.prior)}); received weights {found}; pass that as "
            "prior=..."
        )
    return prior


def _named_prior(path: Path, header: PosteriorHeader, name: str, allow_download: bool) -> Prior:
    """The prior that a file names, from this machine, or from the network where the user allows it."""
    from pyro_vble.io.priors import available_priors, load_prior, needs_network

    remedy = "pass that prior as prior=..., for example prior=load_prior(its path)"
    if needs_network(name) and not allow_download:
        raise ValueError(
            f"{path} was fitted with the prior {brief(name)}, which is not on this machine; pass "
            f"allow_download=True to download it, or {remedy}."
        )
    told = {key: header.prior_settings[key] for key in _TOLD if header.prior_settings.get(key) is not None}
    if isinstance(told.get("rate_scale"), list):
        told["rate_scale"] = tuple(told["rate_scale"])
    try:
        return load_prior(name, **told)
    except (ValueError, TypeError, OSError) as error:
        if name in available_priors():
            raise wrong(path, f"prior_settings {brief(header.prior_settings)} are none of {name}") from error
        if isinstance(error, ConnectionError):
            raise
        raise ValueError(
            f"{path} was fitted with the prior {brief(name)}, which cannot be loaded ({brief(str(error))}); {remedy}."
        ) from error


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them."""
    return json.loads(json.dumps(settings))
