"""What is drawn from a posterior, as ArviZ's groups, chunk by chunk."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vble._version import __version__
from pyro_vble.inference.draws import Draws, DrawSource, asked_for
from pyro_vble.physics import describe, observed_mask

if TYPE_CHECKING:
    import xarray

#: What InferenceData may hold; "latents" are further variables of the group "posterior".
GROUPS = (
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
    "latents",
)
_NEED_PHYSICS = ("posterior_predictive", "log_likelihood", "sample_stats", "prior_predictive")
_IMAGE_DIMS = ("image_batch", "band", "row", "col")
_SAMPLE_DIMS = ("chain", "draw")
_MAX_PRIOR_DRAWS = 20
# Draws where nobody says how many, and as many as one likes can be had.
_NUM_SAMPLES = 200


class DrawStream:
    """What is drawn, as data sets chunk by chunk."""

    def __init__(
        self,
        source: DrawSource,
        num_samples: int | None,
        region: tuple[slice, slice] | None,
        include: set[str] | None,
        truth: Tensor | None,
        coords: Mapping[str, np.ndarray] | None,
        seed: int | None,
    ) -> None:
        self.source = source
        self.num_samples = num_samples or source.stored or _NUM_SAMPLES
        self.truth = _checked_truth(truth, source.shape)
        self.rows, self.columns = region or (slice(None), slice(None))
        self.coords = self._coordinates(coords or {}, region)
        self.include = self._groups(include)
        shown_seed, self.seed = source.resolved_seed(seed), source.lasting_seed(seed)
        self.same_size, self.observed = False, None
        self.y_dims: tuple[str, ...] = ()
        if source.y is not None:
            self._look_at_measurement(source.y)
        self.attrs = {
            "inference_library": "pyro_vble",
            "inference_library_version": __version__,
            "torch_version": str(torch.__version__),
            "pyro_version": pyro.__version__,
            **source.origin,
            "seed": str(shown_seed),
            "sample_dims": list(_SAMPLE_DIMS),
        }

    def streamed(self) -> Iterator[dict[str, "xarray.Dataset"]]:
        """Data sets of draws, by group; those of a prior come once, with the first."""
        densities = bool(self.include & {"log_likelihood", "sample_stats"})
        replicas = "posterior_predictive" in self.include
        if not (densities or replicas or self.include & {"posterior", "latents"}):
            yield self._prior()
            return
        start, extra = 0, self._prior()
        chains = self.source.chains(self.num_samples, seed=self.seed, densities=densities, replicas=replicas)
        for chunks in zip(*chains, strict=True):
            datasets = self._of_draws(chunks)
            count = len(chunks[0].image)
            for dataset in datasets.values():
                dataset.coords["draw"] = np.arange(start, start + count)
            start += count
            yield datasets | extra
            extra = {}

    def fixed(self) -> dict[str, "xarray.Dataset"]:
        """Data sets without draws, by group."""
        groups = {}
        if "observed_data" in self.include and self.source.y is not None:
            groups["observed_data"] = self._dataset({"y": self._measured(self.source.y)})
        if "constant_data" in self.include:
            # As an object: NetCDF and Zarr store text of a fixed length in ways that not every reader knows.
            values: dict[str, Any] = {"operator": ((), np.array(describe(self.source.physics), dtype=object))}
            if self.truth is not None:
                values["truth"] = (_IMAGE_DIMS, _array(self._cut(self.truth)))
            groups["constant_data"] = self._dataset(values)
        return groups

    def _look_at_measurement(self, y: Tensor) -> None:
        """Which dimensions a measurement has, and which of its values are observed."""
        self.same_size = y.dim() == 4 and y.shape[-2:] == self.source.shape[-2:]
        if self.same_size:
            self.y_dims = ("image_batch", "band" if y.shape[1] == self.source.shape[1] else "y_band", "row", "col")
        elif y.dim() == 4:
            self.y_dims = ("image_batch", "y_band", "y_row", "y_col")
        else:
            self.y_dims = ("image_batch", *(f"y_dim_{i}" for i in range(1, y.dim())))
        observed = observed_mask(self.source.physics, y)
        observed = (self._cut(observed) if self.same_size else observed).flatten()
        # A value without likelihood is none that could be left out or replicated: only the others are told of.
        self.observed = None if bool(observed.all()) else observed.nonzero()[:, 0]

    def _of_draws(self, chains: tuple[Draws, ...]) -> dict[str, "xarray.Dataset"]:
        def stacked(values: Any) -> np.ndarray:
            return np.stack([_array(value) for value in values])

        groups: dict[str, dict[str, Any]] = {}
        if self.include & {"posterior", "latents"}:
            variables: dict[str, Any] = {"image": (_IMAGE_DIMS, stacked(self._cut(c.image) for c in chains))}
            named = self.source.parameters
            for site in chains[0].latents:
                if site not in named and "latents" not in self.include:  # of turned fits they have several shapes
                    continue
                value = stacked(c.latents[site] for c in chains)
                if site in named:
                    variables[site] = (("image_batch",), value)
                else:
                    dims = ("image_batch", *(f"{site}_dim_{i}" for i in range(value.ndim - 3)))
                    variables[site] = (dims, value)
            groups["posterior"] = variables
        if "log_likelihood" in self.include:
            groups["log_likelihood"] = {"y": self._measured(torch.stack([asked_for(c.log_likelihood) for c in chains]))}
        if "sample_stats" in self.include:
            groups["sample_stats"] = {
                "log_p": (("image_batch",), stacked(c.log_joint for c in chains)),
                "log_q": (("image_batch",), stacked(c.log_guide for c in chains)),
            }
        if "posterior_predictive" in self.include:
            groups["posterior_predictive"] = {"y": self._measured(torch.stack([asked_for(c.replica) for c in chains]))}
        return {group: self._sampled(variables) for group, variables in groups.items()}

    def _prior(self) -> dict[str, "xarray.Dataset"]:
        """Ancestral samples, and measurements of them."""
        wanted = self.include & {"prior", "prior_predictive"}
        if not wanted:
            return {}
        measured = "prior_predictive" in wanted
        count = min(self.num_samples, _MAX_PRIOR_DRAWS)
        joined = self.source.ancestral(count, seed=self.seed, measured=measured)
        groups: dict[str, dict[str, Any]] = {
            "prior": {"image": (_IMAGE_DIMS, _array(self._cut(joined.pop("x")))[None])}
        }
        if measured:
            groups["prior_predictive"] = {"y": self._measured(joined.pop("y")[None])}
        groups["prior"] |= {name: (("image_batch",), _array(value)[None]) for name, value in joined.items()}
        return {group: self._sampled(groups[group]) for group in groups if group in wanted}

    def _sampled(self, variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]]) -> "xarray.Dataset":
        return self._dataset({name: ((*_SAMPLE_DIMS, *dims), value) for name, (dims, value) in variables.items()})

    def _dataset(self, variables: Mapping[str, tuple[tuple[str, ...], Any]]) -> "xarray.Dataset":
        import xarray as xr

        # A list is no attribute that a NetCDF group can hold everywhere: it stays with the whole.
        attrs = {name: value for name, value in self.attrs.items() if isinstance(value, str)}
        dataset = xr.Dataset(dict(variables), attrs=attrs)
        counted = {dim: np.arange(size) for dim, size in dataset.sizes.items()}
        own = {dim: values for dim, values in self.coords.items() if dim in dataset.sizes}
        if "y_observed" in dataset.sizes and self.observed is not None:
            own["y_observed"] = _array(self.observed)
        return dataset.assign_coords(counted | own)

    def _cut(self, image: Tensor) -> Tensor:
        return image[..., self.rows, self.columns]

    def _measured(self, y: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
        """Dims and values of measurements (*, *y.shape): of the region, and, if any is missing, the observed ones."""
        y = self._cut(y) if self.same_size else y
        if self.observed is None:
            return self.y_dims, _array(y)
        return ("y_observed",), _array(y.flatten(-len(self.y_dims))[..., self.observed])

    def _coordinates(
        self, coords: Mapping[str, np.ndarray], region: tuple[slice, slice] | None
    ) -> dict[str, np.ndarray]:
        sizes = dict(zip(_IMAGE_DIMS[1:], self.source.shape[1:], strict=True))
        whole = {}
        for dim, size in sizes.items():
            values = coords.get(dim, np.arange(size))
            if values.shape != (size,):
                raise ValueError(
                    f"coords[{dim!r}] must have one value for each of the image's {size}; received shape "
                    f"{values.shape}; give those of the whole image, a region is cut from them."
                )
            whole[dim] = values
        unknown = set(coords) - set(whole)
        if unknown:
            raise ValueError(f"coords must be those of {', '.join(whole)}; received {', '.join(sorted(unknown))}.")
        whole |= {"row": whole["row"][self.rows], "col": whole["col"][self.columns]}
        if not (len(whole["row"]) and len(whole["col"])):
            raise ValueError(
                f"region must hold at least one pixel of the {sizes['row']}x{sizes['col']} image; received {region}."
            )
        return whole

    def _groups(self, include: set[str] | None) -> set[str]:
        possible = self.source.groups
        if include is None:
            return set(possible) - {"latents"}
        missing = include - possible
        if missing & set(_NEED_PHYSICS) and self.source.physics is None:
            raise ValueError(
                f"{', '.join(sorted(missing & set(_NEED_PHYSICS)))} need the forward operator, which is not saved with "
                "a posterior; pass physics=... to load_posterior."
            )
        if missing:
            raise ValueError(
                f"include must be of {', '.join(sorted(possible))}, which these samples have; received "
                f"{', '.join(sorted(missing))}."
            )
        return include


def _checked_truth(truth: Tensor | None, image_shape: tuple[int, ...]) -> Tensor | None:
    if truth is None:
        return None
    if tuple(truth.shape) != image_shape:
        raise ValueError(f"truth must have the image's shape {image_shape}; received {tuple(truth.shape)}.")
    return truth


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
