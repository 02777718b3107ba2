"""Posteriors as files: safetensors, with JSON in the header."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pyro_vble import guides as guide_classes
from pyro_vble._arguments import Flag, PathName, brief, checked
from pyro_vble._version import __version__
from pyro_vble.ensemble import EnsemblePosterior
from pyro_vble.guides import MeanFieldGuide
from pyro_vble.inference import resolve_device
from pyro_vble.inference.precision import Device, dtype_of
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.families import distribution_of, family_of
from pyro_vble.io.posterior_files import (
    FORMAT,
    PosteriorHeader,
    check_finite,
    check_sizes,
    part_of,
    posterior_checksum,
    read_posterior_file,
    wrong,
)
from pyro_vble.models import Prior, RestorationModel
from pyro_vble.physics import measure, operator_on
from pyro_vble.posterior import Posterior


@checked
def save_posterior(posterior: Any, path: PathName) -> None:
    """Write a posterior to one file: the guides' parameters, the measurement, the ELBO traces and their description.

    The prior is stored by name and fingerprint, the operator not at all.

    Raises:
        TypeError: If the guide, or the prior of a parameter inferred with the image, is none that can be built again
            by name.
        ValueError: If a parameter of the guide is not finite.
        OSError: If the file cannot be written.
    """
    guide = posterior.guide
    if _guide_classes().get(type(guide).__name__) is not type(guide):
        raise TypeError(
            f"Posteriors of this library's guides can be saved ({', '.join(_guide_classes())}); received "
            f"{type(guide).__name__}; save guide.state_dict() yourself, or the whole posterior with cloudpickle."
        )
    prior = posterior.model.prior
    header = {
        "format": FORMAT,
        "version": __version__,
        "guide": type(guide).__name__,
        "options": guide.options,
        "prior": prior.name,
        "prior_fingerprint": fingerprint(prior),
        "prior_settings": prior.settings,
        "image_shape": list(posterior.image_shape[1:]),
        "precision": posterior.precision,
        "seed": posterior.seed,
        "num_fits": len(posterior.fits),
        "seeds": [fit.seed for fit in posterior.fits],
        "calibration": posterior.calibration and posterior.calibration.as_dict(),
        "physics_priors": {name: family_of(name, p) for name, p in posterior.model.physics_priors.items()},
        "interrupted": bool(getattr(posterior, "interrupted", False)),
    }
    tensors = {"y": posterior.y}
    for k, fit in enumerate(posterior.fits):
        state = fit.guide.state_dict()
        check_finite(state)
        tensors |= {f"guide{k}.{name}": value for name, value in state.items()}
        tensors[f"elbo{k}"] = fit.elbo
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header["checksum"] = posterior_checksum(header, tensors)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"pyro_vble": json.dumps(header)})


@checked
def load_posterior(
    path: PathName,
    *,
    prior: Prior | None = None,
    physics: Any = None,
    device: Device = "cpu",
    allow_download: Flag = False,
) -> Posterior:
    """Read a posterior that :meth:`Posterior.save` wrote.

    Args:
        path: The file.
        prior: The prior, where it was not loaded by name (one of your own).
        physics: The forward operator: what has to do with measurements needs it (``predictive``, ``draws``, most
            groups of ``to_arviz``, Markov chains, further fitting).
        device: Where to put it; "auto" is CUDA where there is one.
        allow_download: Whether a prior that the file names, and that is not on this machine, may be downloaded from
            the Hugging Face Hub or the CompressAI zoo.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind, the prior is missing or another one, or the operator
            does not measure such images so.

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
    header, tensors = read_posterior_file(path)
    guide_class = _guide_classes().get(header.guide)
    if guide_class is None:
        raise wrong(path, f"its guide must be one of {', '.join(_guide_classes())}; it is {brief(header.guide)}")
    try:
        priors = {name: distribution_of(family) for name, family in header.physics_priors.items()}
        options = _checked_options(guide_class, header.options)
        check_sizes(header, tensors)
    except (ValueError, TypeError) as error:
        raise wrong(path, str(error)) from error
    prior = _prior_of(path, header, prior, allow_download)
    dtype = dtype_of(header.precision)
    y = tensors["y"].to(device)
    try:
        prior.validate_image_shape(header.image_shape)
        model = RestorationModel(prior, None, latent_image=guide_class.latent_image, image_shape=header.image_shape)
        model.prior.to(device, dtype)
        model.physics_priors = priors
        guides = [
            _guide(guide_class, model, y, options, part_of(tensors, f"guide{k}.")) for k in range(header.num_fits)
        ]
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        # A guide is built for whatever a file holds: what that raises is about the file.
        raise wrong(path, f"{' '.join(str(error).split())[:500]}") from error
    if physics is not None:
        model.physics = operator_on(physics, device, dtype)
        _check_measurement(path, model.physics, header.image_shape, y)
    told = {"precision": header.precision}
    fits = [
        Posterior(model, guide, y, elbo=tensors[f"elbo{k}"], seed=seed, **told)
        for k, (guide, seed) in enumerate(zip(guides, header.seeds, strict=True))
    ]
    posterior = fits[0] if len(fits) == 1 else EnsemblePosterior(fits)
    if header.interrupted:
        posterior.interrupted = True
    if header.calibration is None:
        return posterior
    from pyro_vble.diagnostics.conformal import Calibration

    return posterior.calibrated(Calibration.from_dict(header.calibration, f"the calibration in {path}"))


def fingerprint(prior: torch.nn.Module) -> str:
    """A short hash of a prior's weights: enough to tell one prior from another."""
    digest = hashlib.sha256()
    for name, value in sorted(prior.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _guide_classes() -> dict[str, type[MeanFieldGuide]]:
    """The guides that a file can name."""
    exported = {name: getattr(guide_classes, name) for name in guide_classes.__all__}
    return {
        name: found
        for name, found in exported.items()
        if isinstance(found, type) and issubclass(found, MeanFieldGuide) and found is not MeanFieldGuide
    }


def _checked_options(guide_class: type, options: dict[str, Any]) -> dict[str, Any]:
    known = [p.name for p in inspect.signature(guide_class).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in known]:
        raise ValueError(
            f"{guide_class.__name__} has no option {brief(unknown[0])}; it has {', '.join(known) or 'none'}"
        )
    return options


def _guide(
    guide_class: type[MeanFieldGuide], model: RestorationModel, y: Tensor, options: dict[str, Any], state: Any
) -> MeanFieldGuide:
    """A guide with the parameters of a file, which must be its own, whole and finite."""
    guide = guide_class(model, y, **options)
    own = guide.state_dict()
    if missing := sorted(own.keys() ^ state.keys()):
        raise ValueError(f"its guide must have the parameters {', '.join(own)}; {brief(missing[0])} is not one of both")
    for name, value in own.items():
        found = state[name]
        if (found.shape, found.dtype) != (value.shape, value.dtype):
            raise ValueError(f"{name} must be {brief(value)}, as image_shape and precision want; it is {brief(found)}")
    check_finite(state)
    guide.load_state_dict(state)
    return guide


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


# --- the prior ---

# Of a prior's settings, those that a file may leave to be told.
_TOLD = ("alpha", "distortion", "rate_scale")


def _prior_of(path: Path, header: PosteriorHeader, prior: Prior | None, allow_download: bool) -> Prior:
    if prior is None and header.prior is None:
        raise ValueError(
            f"{path} was fitted with a prior of your own, which is not saved with it; pass prior=..., the same prior."
        )
    if prior is None:
        prior = _named_prior(path, header, allow_download)
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


def _named_prior(path: Path, header: PosteriorHeader, allow_download: bool) -> Prior:
    """The prior that a file names, from this machine, or from the network where the user allows it."""
    from pyro_vble.io.priors import available_priors, load_prior, needs_network

    name, remedy = header.prior, "pass that prior as prior=..., for example prior=load_prior(its path)"
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
