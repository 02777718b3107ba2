"""Deprecated: :mod:`pyro_vble.loading` and ``Posterior.save``."""

from pyro_vble._deprecated import moved

__getattr__ = moved(
    __name__,
    {
        "load_posterior": "pyro_vble.loading:load_posterior",
        "save_posterior": "pyro_vble.samples.saving:save_posterior",
        "fingerprint": "pyro_vble.models.identity:fingerprint",
    },
)
