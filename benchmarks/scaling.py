"""How time and memory grow: with pixels, images, particles, samples; and how far above the arithmetic they are."""

import statistics

import pyro
import torch
from torch.utils.flop_counter import FlopCounterMode

import pyro_vble as pv
from benchmarks.against_loop import SIGMA
from benchmarks.measuring import median_seconds, photograph
from benchmarks.published_loop import PublishedFit, published_elbo
from pyro_vble.benchmark.measuring import peak_memory, stopwatch
from pyro_vble.guides import VBLE
from pyro_vble.guides.parameters import parameter_scope
from pyro_vble.inference import FitSettings, svi_of
from pyro_vble.inference.precision import network_precision, resolve_precision
from pyro_vble.models import CAE, RestorationModel
from pyro_vble.physics.problems import deblurring, gaussian_kernel


class Problem:
    """Deblurring of photographs, ready to take steps.

    Args:
        prior: A CAE.
        device: Where.
        side: Image side in pixels.
        batch: Number of images.
        particles: Draws a step.
        guide: The guide's class.
        eager: Take steps one operation after the other, also on CUDA.
    """

    def __init__(
        self,
        prior: CAE,
        device: torch.device,
        side: int = 256,
        batch: int = 1,
        particles: int = 1,
        guide: type = VBLE,
        eager: bool = False,
    ) -> None:
        self.device, self.precision = device, resolve_precision("auto", prior, device)
        self.physics = deblurring(SIGMA, gaussian_kernel(1.0)).to(device)
        torch.manual_seed(0)
        self.y = self.physics(photograph("cat", side, device).expand(batch, -1, -1, -1))
        self.model = RestorationModel(prior, self.physics, latent_image=guide.latent_image)
        self.model.prior.to(device)
        self.guide = guide(self.model, self.y)
        self.svi = svi_of(self.model, self.guide, self.y, FitSettings(num_particles=particles), eager=eager)
        self.svi.optim.rate = 0.1

    def step(self) -> None:
        """Take one step, as a fit does."""
        # Pyro's checks look at values, with which no step can be captured on CUDA: a fit leaves them out too.
        checked = pyro.validation_enabled(False)
        with checked, network_precision(self.precision, self.device), parameter_scope(self.guide):
            self.svi.step(self.y)

    def seconds(self, repeats: int = 7) -> float:
        """Median time of a step."""
        for _ in range(4):  # the fourth is captured, on CUDA
            self.step()
        return median_seconds(self.step, self.device, repeats)


def by_side(prior: CAE, device: torch.device, sides: tuple[int, ...]) -> list[dict]:
    """Time of a step by image side, and what it adds to the process's memory."""
    rows = []
    for side in sides:
        with peak_memory(device) as memory:
            seconds = Problem(prior, device, side).seconds(3 if side > 512 else 7)
        rows.append({"side": side, "seconds": seconds, "ns_per_pixel": 1e9 * seconds / side**2, "peak_mib": memory[0]})
    return rows


def by_batch(prior: CAE, device: torch.device, batches: tuple[int, ...], side: int = 128) -> list[dict]:
    """Time of a step by number of images."""
    rows = []
    for batch in batches:
        seconds = Problem(prior, device, side, batch=batch).seconds(3 if batch > 8 else 7)
        rows.append({"batch": batch, "side": side, "seconds": seconds, "seconds_per_image": seconds / batch})
    return rows


def by_particles(prior: CAE, device: torch.device, particles: tuple[int, ...], side: int = 128) -> list[dict]:
    """Time of a step by number of particles."""
    rows = []
    for count in particles:
        seconds = Problem(prior, device, side, particles=count).seconds()
        rows.append({"particles": count, "side": side, "seconds": seconds, "seconds_per_particle": seconds / count})
    return rows


def by_samples(prior: CAE, device: torch.device, counts: tuple[int, ...], side: int = 128) -> list[dict]:
    """Time and memory of a mean, a standard deviation and a 90 % interval, by number of samples."""
    x = photograph("cat", side, device)
    physics = deblurring(SIGMA, gaussian_kernel(1.0)).to(device)
    posterior = pv.restore(physics(x), physics, prior, num_steps=5, progress=False, device=device)
    rows = []
    for seed, count in enumerate(counts):
        with peak_memory(device) as memory, stopwatch(device) as moments:
            posterior.std(count, seed=seed)
        with peak_memory(device) as more, stopwatch(device) as interval:
            posterior.interval(0.9, count, seed=seed + 1000)
        rows.append(
            {
                "samples": count,
                "side": side,
                "moments_seconds": moments[0],
                "interval_seconds": interval[0],
                "milliseconds_per_sample": 1e3 * moments[0] / count,
                "moments_peak_mib": memory[0],
                "interval_peak_mib": more[0],
            }
        )
    return rows


def share_of_pyro(prior: CAE, device: torch.device, side: int) -> dict:
    """A step beside the same network, loss and Adam in plain torch: what Pyro, and probabilities in log space, cost.

    Steps of both are taken in turn, because a machine's pace may change within seconds.
    """
    problem = Problem(prior, device, side, eager=True)
    network, y = problem.model.prior.network, problem.y
    latents = {site: value.clone().requires_grad_() for site, value in problem.guide.loc.items()}
    widths = {site: torch.zeros_like(value).requires_grad_() for site, value in latents.items()}
    fit = PublishedFit(latents["z"], latents["h"], widths["z"], widths["h"], None, [])
    parameters = [*latents.values(), *widths.values()]
    optimiser = torch.optim.Adam(parameters)

    def plain() -> None:
        with network_precision(problem.precision, device):
            loss = -published_elbo(network, problem.physics.A, y, SIGMA, fit, None)
            loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    times: dict[str, list[float]] = {"plain": [], "eager": []}
    with pyro.validation_enabled(False):
        for turn in range(33):
            for name, step in (("plain", plain), ("eager", problem.step)):
                with stopwatch(device) as seconds:
                    step()
                if turn > 2:
                    times[name] += seconds
    row = {"side": side, **{f"{name}_seconds": statistics.median(of_one) for name, of_one in times.items()}}
    pairs = zip(times["plain"], times["eager"], strict=True)
    row["share"] = 1 - statistics.median(plain / eager for plain, eager in pairs)
    if device.type == "cuda":
        row["captured_seconds"] = Problem(prior, device, side).seconds(15)
    return row


def floor(prior: CAE, device: torch.device, guide: type = VBLE) -> dict:
    """Arithmetic of a step and of a sample, at the rate this machine multiplies large matrices."""
    problem = Problem(prior, device, guide=guide, eager=True)
    seconds = problem.seconds()
    with FlopCounterMode(display=False) as counter:
        problem.step()
    step = counter.get_total_flops()
    posterior = pv.Posterior(problem.model, problem.guide, problem.y, precision=problem.precision)
    with FlopCounterMode(display=False) as counter:
        posterior.mmse_x(4, seed=0)
    sample = counter.get_total_flops() / 4
    sampling = median_seconds(lambda: posterior.mmse_x(20), device, 3) / 20
    rate = matrix_rate(device, problem.precision)
    return {
        "guide": guide.__name__,
        "gflop_per_step": step / 1e9,
        "gflop_per_sample": sample / 1e9,
        "matrix_gflops": rate / 1e9,
        "step_seconds": seconds,
        "step_fraction_of_floor": step / rate / seconds,
        "sample_seconds": sampling,
        "sample_fraction_of_floor": sample / rate / sampling,
    }


def matrix_rate(device: torch.device, precision: str, size: int = 2048) -> float:
    """Floating-point operations a second in a product of large matrices, in the networks' precision."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    with torch.no_grad():
        return 2 * size**3 / median_seconds(lambda: a @ a, device)
