"""One step of a fit: ELBO, gradient, Adam."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoContinuous, AutoStructured
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vble.guides import MeanFieldGuide
from pyro_vble.guides._parameters import parameters_of
from pyro_vble.inference.elbo import DeviceELBO, DeviceTraceELBO
from pyro_vble.inference.settings import FitSettings
from pyro_vble.seeding import forked_generators


class EagerSteps:
    """Steps one operation after the other, as Pyro's ``SVI`` takes them.

    Args:
        loss: Differentiable negative ELBO, a scalar tensor.
        guide: The guide; its parameters are found here, those of other programs at the first step.
        betas: Decay of Adam's moments.
        slow_part: Part of the rate at which the guide's ``slow_parameters`` move.
    """

    #: How many losses may wait for the host to look at them.
    read_every = 1

    def __init__(
        self, loss: Callable[[], Tensor], guide: Callable, betas: tuple[float, float], slow_part: float = 1.0
    ) -> None:
        self._loss = loss
        self._betas, self._slow_part = betas, slow_part
        self._optimiser: torch.optim.Adam | None = None
        self._guide = guide
        self._take_in(parameters_of(guide))

    @property
    def state(self) -> list[Tensor]:
        """Parameters and their moments: what a step changes. Those of new parameters come last."""
        return [value for p in self.parameters for value in (p, *self._optimiser.state[p].values())]

    @property
    def parameters(self) -> list[Tensor]:
        """What is optimised."""
        if self._optimiser is None:
            return []
        return [p for group in self._optimiser.param_groups for p in group["params"]]

    def step(self, rate: float, *, validate: bool = False) -> Tensor:
        """Take one step at a learning rate; returns the loss before it, not looked at yet."""
        with poutine.trace(param_only=True) as seen:
            loss = self._gradient(validate)
        # A plain torch parameter, as some of Pyro's own guides have, is its own unconstrained value.
        values = [site["value"] for site in seen.trace.nodes.values()]
        self._take_in(value.unconstrained() if hasattr(value, "unconstrained") else value for value in values)
        self._set_rate(rate)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return loss

    def release(self) -> None:
        """Let go of what only further steps need; parameters keep no gradient that another fit would add to."""
        for p in self.parameters:
            p.grad = None

    def _gradient(self, validate: bool = False) -> Tensor:
        """The gradient at the parameters; returns the loss."""
        with torch.enable_grad(), pyro.validation_enabled(validate):
            loss = self._loss()
            if not loss.requires_grad:
                raise ValueError(
                    "A guide must have parameters that its distributions depend on; received one whose ELBO depends on "
                    "none; make them with pyro.param, PyroParam or torch.nn.Parameter."
                )
            loss.backward()
        return loss.detach()

    def _take_in(self, parameters: Any) -> None:
        """Optimise these parameters too; their moments exist, and are zero, from now on."""
        known = set(self.parameters)
        new = [p for p in dict.fromkeys(parameters) if p not in known and p.requires_grad]
        if not new:
            return
        parts = parts_of_the_rate(self._guide, self._slow_part)
        groups: dict[float, list[Tensor]] = {}
        for p in new:
            groups.setdefault(parts.get(p, 1.0), []).append(p)
        for part, params in groups.items():
            self._add({"params": params, "part": part})
        for p in new:
            count = torch.zeros((), dtype=torch.float32, device=p.device if p.is_cuda else None)
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self._optimiser.state[p] = {"step": count, **moments}

    def _add(self, group: dict[str, Any]) -> None:
        """Optimise a group of parameters, at a part of the learning rate."""
        device = group["params"][0].device
        if device.type == "cuda":
            # A rate on the device is one that a captured step reads anew; a number would be captured with it.
            group["lr"] = torch.zeros((), dtype=torch.float32, device=device)
        if self._optimiser is None:
            options = {"fused": device.type in ("cpu", "cuda"), "capturable": device.type == "cuda"}
            self._optimiser = torch.optim.Adam([group], betas=self._betas, **options)
        else:
            self._optimiser.add_param_group(group)

    def _set_rate(self, rate: float) -> None:
        for group in self._optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["part"] * rate)
            else:
                group["lr"] = group["part"] * rate


class CapturedSteps(EagerSteps):
    """Steps captured once in a CUDA graph and replayed: one launch in place of a thousand.

    The first two steps are taken eagerly, on a stream of their own as capture wants it, the second under CUDA's watch
    for anything that would make the host wait. What cannot be captured goes on eagerly, with one warning.
    """

    read_every = 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_loss: Tensor | None = None
        self._device = self.parameters[0].device if self.parameters else torch.device("cuda")
        self._stream: torch.cuda.Stream | None = _stream_on(self._device)

    def step(self, rate: float, *, validate: bool = False) -> Tensor:
        """Take one step at a learning rate; returns the loss before it, not looked at yet."""
        with torch.cuda.device(self._device):
            return self._step(rate, validate)

    def release(self) -> None:
        """Let go of what only further steps need: gradients, and the graph whose memory they lie in."""
        super().release()
        self._graph = self._captured_loss = None

    def _step(self, rate: float, validate: bool) -> Tensor:
        if self._stream is None:
            return super().step(rate, validate=validate)
        self._taken += 1
        if self._taken == 1:
            return self._aside(lambda: super(CapturedSteps, self).step(rate, validate=validate))
        if self._graph is not None:
            return self._replay(rate)
        try:
            if self._taken == 2:
                return self._aside(lambda: self._watched(rate))
            self._capture(rate)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._optimiser.zero_grad()
            self._stream = None
            reason = str(error).splitlines()[0]
        # Outside the handler, whose exception would keep the failed attempt's tensors alive.
        if self._stream is not None:
            return self._replay(rate)
        warnings.warn(
            "This fit cannot be captured in a CUDA graph and goes on step by step, several times slower: "
            f"{reason}. An operator or guide that reads a value back to the CPU (.item(), a branch on a tensor) is the "
            "usual cause.",
            stacklevel=2,
        )
        return super().step(rate)

    def _watched(self, rate: float) -> Tensor:
        """A step, or an error before it changes anything if the host has to wait for it."""
        with _no_waiting():
            return super().step(rate)

    def _capture(self, rate: float) -> None:
        """Capture a step; nothing of it is executed."""
        self._set_rate(rate)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random, stream = generator.clone_state(), torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._captured_loss = self._gradient()
                self._optimiser.step()
        except BaseException:
            # A generator that was being captured answers nobody else, and a capture that CUDA ended leaves its stream.
            torch.cuda.set_stream(stream)
            generator.graphsafe_set_state(random)
            raise
        self._graph = graph

    def _replay(self, rate: float) -> Tensor:
        self._set_rate(rate)
        self._graph.replay()
        return self._captured_loss.clone()

    def _aside(self, work: Callable[[], Any]) -> Any:
        """Do something on the stream of the capture."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result


@functools.cache
def _stream_on(device: torch.device) -> "torch.cuda.Stream":
    """The stream of all captures on a device: matrix products keep a workspace for every stream they have seen."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """A scope in which it is an error if the host waits for the GPU."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def parts_of_the_rate(guide: Callable, slow_part: float) -> dict[Tensor, float]:
    """The part of the learning rate at which parameters move that do not move at all of it.

    Widths that start near their optimum, and matrices that couple latents, in Pyro's own guides: each of n latents is a
    sum over a row of n numbers, which would move by n times the rate.
    """
    if isinstance(guide, MeanFieldGuide):
        return dict.fromkeys(guide.slow_parameters, slow_part)
    if isinstance(guide, AutoContinuous | AutoStructured):
        return {p: 1 / p.shape[1] for p in guide.parameters() if p.dim() == 2}
    return {}


def steps_of(
    guide: Callable,
    y: Tensor,
    settings: FitSettings,
    programs: tuple[Callable, Callable],
    *,
    eager: bool = False,
) -> EagerSteps:
    """The steps of a fit: captured on CUDA where every site is reparameterised, eager elsewhere.

    Args:
        guide: The guide.
        y: Measurement (B, ...).
        settings: Settings of the fit.
        programs: Model and guide as the ELBO shall see them (tempered).
        eager: Never capture.
    """
    device_ready = _is_reparameterised(guide, y)
    elbo = _elbo(settings, guide, device_ready)
    kind = CapturedSteps if device_ready and y.is_cuda and not eager else EagerSteps
    return kind(lambda: elbo.differentiable_loss(*programs, y), guide, settings.betas, settings.slow_part)


def _elbo(settings: FitSettings, guide: Callable, device_ready: bool) -> ELBO:
    ours = isinstance(guide, MeanFieldGuide)
    name = ("mean_field" if ours else "trace") if settings.elbo == "auto" else settings.elbo
    if name == "mean_field":
        kind = DeviceELBO if ours else TraceMeanField_ELBO
    else:
        kind = DeviceTraceELBO if device_ready else Trace_ELBO
    return kind(
        num_particles=settings.num_particles, vectorize_particles=settings.num_particles > 1, max_plate_nesting=1
    )


def _is_reparameterised(guide: Callable, y: Tensor) -> bool:
    """Whether every site of a guide is; Pyro's autoguides make their parameters at this, their first call."""
    if isinstance(guide, MeanFieldGuide):
        return True
    with forked_generators(y.device), torch.no_grad():
        trace = poutine.trace(guide).get_trace(y)
    samples = [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]
    return all(site["fn"].has_rsample for site in samples)
