"""Distributions of one number as text, and from text: known families only, with the parameters that make them again."""

from typing import Any

import pyro.distributions
import torch
from pydantic import BaseModel, ConfigDict, Field
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_vble._arguments import brief
from pyro_vble.seeding import seeded


class Family(BaseModel):
    """A distribution of a number as its class and parameters."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, validate_by_name=True)

    kind: str = Field(alias="class")
    parameters: dict[str, float] = Field(min_length=1)


def family_of(name: str, prior: Any) -> dict[str, Any]:
    """A distribution of a number as its class and parameters, from which it was made again.

    Raises:
        TypeError: If it could not be made again.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_vble.io.families import family_of
        >>> family_of("sigma", dist.HalfNormal(0.5))
        {'class': 'HalfNormal', 'parameters': {'scale': 0.5}}
    """
    try:
        parameters = {key: float(getattr(prior, key)) for key in prior.arg_constraints}
        family = {"class": type(prior).__name__, "parameters": parameters}
        again = distribution_of(Family.model_validate(family))
        if type(again) is not type(prior):
            raise ValueError("it is none of pyro.distributions")
        with seeded(0):
            value = prior.sample()
        torch.testing.assert_close(again.log_prob(value.float()), prior.log_prob(value).float(), rtol=1e-4, atol=1e-4)
    except Exception as error:  # whatever its constructor says: it cannot be made again
        raise TypeError(
            f"The prior of {name!r} must be a distribution of pyro.distributions that its parameters make again, such "
            f"as HalfNormal or Uniform, to be saved; received {type(prior).__name__}; fit with such a one, or save "
            "guide.state_dict() yourself."
        ) from error
    return family


def distribution_of(family: Family) -> Any:
    """The distribution again.

    Raises:
        ValueError: If it is none of pyro.distributions, its parameters are others, or it is not of one number.
    """
    kind = vars(pyro.distributions).get(family.kind)
    known = isinstance(kind, type) and issubclass(kind, TorchDistributionMixin) and kind.__name__ == family.kind
    try:
        found = _made(kind, family.parameters) if known else None
        told = found is not None and set(found.arg_constraints) == set(family.parameters)
        if found is not None and told and not found.batch_shape and not found.event_shape:
            return found
        reason = ""
    except Exception as error:  # a constructor may say no in any way
        reason = f" ({brief(str(error))})"
    raise ValueError(
        f"the prior of a parameter must be a distribution of one number of pyro.distributions with its parameters; it "
        f"is {brief(family.kind)} of {brief(family.parameters)}{reason}"
    )


def _made(kind: Any, parameters: dict[str, Any]) -> Any:
    return kind(**parameters, validate_args=True)
