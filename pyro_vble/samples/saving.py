"""What of a posterior goes into its file."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vble._arguments import PathName, brief, checked
from pyro_vble._version import __version__
from pyro_vble.guides.abilities import guide_name, is_reparameterised
from pyro_vble.guides.building import build_guide, unwrapped
from pyro_vble.guides.reference import maker_of, reference_of
from pyro_vble.io.families import family_of
from pyro_vble.io.posterior_files import check_finite, write_posterior_file
from pyro_vble.models.identity import fingerprint
from pyro_vble.models.turned import turn_of, upright
from pyro_vble.seeding import seeded

if TYPE_CHECKING:
    from pyro_vble.samples.fitted import Fitted


@checked
def save_posterior(posterior: Any, path: PathName) -> None:
    """Write a posterior to one file: the guides' parameters, the measurement, the ELBO traces and their description.

    The guide is stored by module and qualified name, the prior by name and fingerprint, the operator not at all.

    Raises:
        TypeError: If the guide, or the prior of a parameter inferred with the image, is none that can be built again
            by name.
        ValueError: If a parameter of the guide is not finite.
        OSError: If the file cannot be written.
    """
    first, prior = posterior.fits[0], upright(posterior.model.prior)
    reference = reference_of(first.guide, first.maker)
    states = [fit.guide.state_dict() if hasattr(fit.guide, "state_dict") else {} for fit in posterior.fits]
    for state in states:
        check_finite(state)
    _check_that_it_comes_back(posterior, reference, states[0])
    header = {
        "version": __version__,
        "guide": reference,
        "latent_image": posterior.model.latent_image,
        "prior": prior.name,
        "prior_fingerprint": fingerprint(prior),
        "prior_settings": prior.settings,
        "image_shape": list(posterior.shape[1:]),
        "precision": posterior.precision,
        "seed": posterior.seed,
        "num_fits": len(posterior.fits),
        "seeds": [fit.seed for fit in posterior.fits],
        "turns": [str(turn_of(fit.model.prior)) for fit in posterior.fits],
        "calibration": posterior.calibration and posterior.calibration.as_dict(),
        "physics_priors": {name: family_of(name, p) for name, p in posterior.model.physics_priors.items()},
        "interrupted": bool(posterior.interrupted),
    }
    tensors = {"y": posterior.y}
    for k, (fit, state) in enumerate(zip(posterior.fits, states, strict=True)):
        tensors |= {f"guide{k}.{name}": value for name, value in state.items()} | {f"elbo{k}": fit.elbo}
    write_posterior_file(Path(path), header, tensors)


def rebuilt(maker: Callable, model: Any, y: Tensor, state: dict[str, Tensor]) -> Callable:
    """A guide made anew, with the parameters of another.

    Raises:
        ValueError: If they are not its own: other names, shapes or data types, or not finite.
    """
    program = model if model.physics is not None else model.unmeasured
    guide = build_guide(maker, model, y, program=program)
    is_reparameterised(guide, y)  # Pyro's own guides make their parameters at their first call
    own = {value.dtype for value in guide.state_dict().values()}
    if strangers := [name for name, value in state.items() if value.dtype not in own]:
        raise ValueError(
            f"{strangers[0]} must be of {' or '.join(map(str, own))}, as image_shape and precision want; it is "
            f"{brief(state[strangers[0]])}"
        )
    check_finite(state)
    try:
        guide.load_state_dict(dict(state))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"its guide must have the parameters {', '.join(guide.state_dict())} ({error})") from error
    return guide


def check_options(maker: Callable) -> None:
    """Raise ValueError if a guide is given an option that it does not have."""
    options = getattr(maker, "keywords", {})
    parameters = inspect.signature(unwrapped(maker)).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = [name for name in named if name not in ("model", "y")]
    if unknown := [name for name in options if name not in known]:
        raise ValueError(
            f"{guide_name(unwrapped(maker))} has no option {brief(unknown[0])}; it has {', '.join(known) or 'none'}"
        )


def _check_that_it_comes_back(posterior: "Fitted", reference: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raise TypeError unless a guide that is not this library's is made again by its name and options."""
    if reference["module"] == "pyro_vble.guides":
        return
    fit = posterior.fits[0]
    try:
        if not state:
            raise ValueError("it has no parameters that can be stored")
        try:
            maker = maker_of(**reference)
        except LookupError:  # one that load_posterior has to be given
            maker = fit.maker
            if maker is None:
                raise
        with seeded(0):
            rebuilt(maker, posterior.model, posterior.y, state)
    except Exception as error:  # whatever the guide says when it is built again
        reason = brief(" ".join(str(error).split()))
        raise TypeError(
            "A guide must be made again by its class and options to be saved, as from restore(..., "
            f"guide=functools.partial(Guide, rank=8)); received {guide_name(fit.guide)}, which is not "
            f"({reason}); save guide.state_dict() yourself, or the whole posterior with cloudpickle."
        ) from error
