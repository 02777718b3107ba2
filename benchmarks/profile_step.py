"""Where the time of one step goes: ``python -m benchmarks.profile_step`` (``--trace FILE`` for Chrome's viewer).

Two views of the same step: its parts, each with its gradient and timed alone, and PyTorch's own record of operators
while whole steps are taken. What belongs to no operator is Python: Pyro, the guide, and PyTorch's way to its kernels.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.against_loop import GUIDES, bundled
from benchmarks.measuring import median_seconds
from benchmarks.scaling import Problem
from pyro_vble import keep_freed_memory
from pyro_vble.benchmark.measuring import stopwatch
from pyro_vble.inference import resolve_device
from pyro_vble.inference.precision import network_precision
from pyro_vble.io.atomic import atomic_path

_PROFILED_STEPS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guide", choices=GUIDES, default="vble")
    parser.add_argument("--side", type=int, default=256, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=1, help="number of images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=15, help="operators listed")
    parser.add_argument("--trace", type=Path, help="file for chrome://tracing or ui.perfetto.dev")
    options = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(options.device)
    problem = Problem(bundled(), device, options.side, options.batch, guide=GUIDES[options.guide])
    seconds = problem.seconds(15)
    print(f"a step of {options.guide}, {options.batch} x {options.side}x{options.side}, {problem.precision} networks")
    print(f"{1e3 * seconds:8.2f} ms altogether, {'captured' if device.type == 'cuda' else 'median of 15'}\n")
    print_parts(parts(problem), seconds)
    print()
    print_operators(problem, options.rows, options.trace)


def parts(problem: Problem) -> dict[str, float]:
    """Seconds of the pieces of a step, each forward and back, one operation after the other."""
    prior, guide, physics = problem.model.prior, problem.guide, problem.physics
    shape = problem.model.image_shape(problem.y)
    h, z = guide.loc["h"].detach(), guide.loc["z"].detach()
    with torch.no_grad():
        x = prior.decode_mean(z, shape)
        p_z, p_h = prior.p_z(h, shape), prior.p_h(shape)
    pieces: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "decoder": (lambda z: prior.decode_mean(z, shape), z),
        "hyper-decoder and p(z|h)": (lambda h: prior.p_z(h, shape).log_prob(z), h),
        "p(z|h) alone": (p_z.log_prob, z),
        "p(h)": (p_h.log_prob, h),
        "operator": (physics.A, x),
    }
    if guide.latent_image and prior.decoder_std is not None:
        pieces["decoder of standard deviations"] = (lambda z: prior.decode_std(z, shape), z)
    times = {}
    with pyro.validation_enabled(False), network_precision(problem.precision, problem.device):
        for name, (function, start) in pieces.items():
            times[name] = median_seconds(lambda f=function, s=start: _there_and_back(f, s), problem.device, 15)
    return times


def _there_and_back(function: Callable[[Tensor], Tensor], start: Tensor) -> None:
    function(start.clone().requires_grad_()).sum().backward()


def print_parts(times: dict[str, float], step: float) -> None:
    """A line for each part, and for what no part holds."""
    for name, seconds in times.items():
        print(f"{1e3 * seconds:8.2f} ms  {seconds / step:4.0%}  {name}")
    rest = step - sum(seconds for name, seconds in times.items() if name != "p(z|h) alone")
    print(f"{1e3 * rest:8.2f} ms  {rest / step:4.0%}  the rest: guide, likelihood, Adam, Pyro")


def print_operators(problem: Problem, rows: int, trace: Path | None) -> None:
    """PyTorch's record of whole steps: time in operators by name, and between them."""
    activities = [ProfilerActivity.CPU]
    if problem.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as record, stopwatch(problem.device) as elapsed:
        for _ in range(_PROFILED_STEPS):
            problem.step()
    seconds = elapsed[0] / _PROFILED_STEPS
    on_device = problem.device.type == "cuda"
    spent = {
        event.key: (
            (event.self_device_time_total if on_device else event.self_cpu_time_total) * 1e-6 / _PROFILED_STEPS,
            event.count / _PROFILED_STEPS,
        )
        for event in record.key_averages()
    }
    total = sum(each for each, _ in spent.values())
    count = sum(number for each, number in spent.values() if each > 0)
    print(f"{1e3 * seconds:8.2f} ms under the profiler, {1e3 * total:.2f} in {count:.0f} operators, by name:")
    for name, (each, number) in sorted(spent.items(), key=lambda item: -item[1][0])[:rows]:
        print(f"{1e3 * each:8.2f} ms  {each / seconds:4.0%}  {name[:60]}, {number:.0f} times")
    print(f"{1e3 * (seconds - total):8.2f} ms  {1 - total / seconds:4.0%}  between operators")
    if trace:
        with atomic_path(trace) as temporary:
            record.export_chrome_trace(str(temporary))


if __name__ == "__main__":
    main()
