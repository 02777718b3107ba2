"""Model cards: what a bundled prior is, where it comes from, and how good it is."""

import importlib.resources
import json
from typing import Any

from pyro_vble._arguments import brief, checked


@checked
def load_card(name: str) -> dict[str, Any]:
    """The card of a prior that comes with the package.

    Its ``measured`` figures are of the shipped weights, on images that no training saw. They were measured by
    ``python -m benchmarks.bundle``, and ``pyro-vble models evaluate`` measures them anew.

    Raises:
        ValueError: If there is no such prior.

    Example:
        >>> from pyro_vble import load_card
        >>> load_card("cae-bsd")["architecture"]
        'MeanScaleHyperprior'
    """
    from pyro_vble.io.priors import available_priors

    if name not in available_priors():
        raise ValueError(f"Cards are those of bundled priors, {', '.join(available_priors())}; received {brief(name)}.")
    return json.loads((importlib.resources.files("pyro_vble.weights") / f"{name}.json").read_text())
