"""Building a guide of any kind for a model and a measurement."""

import functools
from collections.abc import Callable

from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_vble.guides.abilities import guide_name
from pyro_vble.guides.parameters import local_parameters, with_own_parameters
from pyro_vble.guides.starting import start_at, starts_by_default
from pyro_vble.models.restoration import RestorationModel


def build_guide(guide: Callable, model: RestorationModel, y: Tensor, *, program: Callable | None = None) -> Callable:
    """The guide of a model and a measurement, with parameters that no other fit shares.

    Pyro's automatic guides, as classes (``AutoNormal``, ``functools.partial(AutoLowRankMultivariateNormal, rank=8)``)
    or made by a callable (model, y) -> guide, start from the model's initial latents; from the prior's median, their
    own start, a fit takes many times as long. One that is given an ``init_loc_fn`` of its own keeps it. Guides written
    as functions with ``pyro.param`` get a parameter store of their own.

    Args:
        guide: A guide class, or a callable (model, y) -> guide.
        model: The :class:`~pyro_vble.models.RestorationModel`.
        y: Measurement (B, ...).
        program: The program that Pyro's automatic guides look at for their sites; the model itself, unless another is
            told.
    """
    program = program or model
    kind = unwrapped(guide)
    automatic = isinstance(kind, type) and issubclass(kind, AutoGuide)
    arguments = (program,) if automatic else (model, y)
    reason = None
    with local_parameters():  # fits of several images must not meet in Pyro's global store
        try:
            built = guide(*arguments)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # from within: a mistake of the guide's own
            reason = str(error)
    if reason is not None:
        raise TypeError(
            f"guide must be a guide class, or a callable (model, y) -> guide; received {guide_name(guide)}, which "
            f"cannot be called so ({reason}); write lambda model, y: ..."
        )
    if not callable(built):
        raise TypeError(
            f"guide must make a guide, which is called with y; {guide_name(guide)} returned {type(built).__name__}; "
            "let it return the guide."
        )
    given = isinstance(guide, functools.partial) and "init_loc_fn" in guide.keywords
    if isinstance(built, AutoGuide) and not given and starts_by_default(built):
        start_at(built, program, {site: start.loc for site, start in model.start(y, informed=False).items()})
    return with_own_parameters(built)


def wants_latent_image(guide: Callable) -> bool:
    """Whether what makes a guide says that it treats the image as a latent of its own."""
    return getattr(unwrapped(guide), "latent_image", False)


def unwrapped(guide: Callable) -> Callable:
    """What a ``functools.partial`` calls; anything else itself."""
    return unwrapped(guide.func) if isinstance(guide, functools.partial) else guide
