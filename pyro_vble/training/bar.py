"""The progress bar of a training."""

import contextlib
import math
from collections.abc import Callable, Iterator

from pyro_vble.training.recipes import Schedule


@contextlib.contextmanager
def progress_bar(
    progress: bool | Callable[[dict[str, float]], None], schedule: Schedule
) -> Iterator[Callable[[dict[str, float]], None]]:
    """A function that shows the figures of the moment: the caller's own, a bar of steps or seconds, or nothing."""
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda figures: None
        return
    from tqdm.auto import tqdm

    by_time = schedule.minutes is not None
    total = schedule.steps if schedule.minutes is None else math.ceil(schedule.minutes * 60)
    # Seconds per second say nothing.
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s{postfix}" if by_time else None
    with tqdm(total=total, desc="train", unit="step", dynamic_ncols=True, bar_format=layout) as bar:

        def show(figures: dict[str, float]) -> None:
            done = min(total, int(figures["elapsed"])) if by_time else figures["step"]
            if bar.n == 0 and done > 1:
                bar.initial = done  # resumed: what went before is not this run's speed
            bar.set_postfix_str(_line(figures), refresh=False)
            bar.update(done - bar.n)

        yield show


def _line(figures: dict[str, float]) -> str:
    words = [f"loss {figures['loss']:.3f}"] if "loss" in figures else []
    if not math.isnan(figures["psnr"]):
        words.append(f"PSNR {figures['psnr']:.2f} dB")
    if "rate" in figures:
        words.append(f"{figures['rate']:.3f} bpp")
    if "images_per_second" in figures:
        words.append(f"{figures['images_per_second']:.1f} images/s")
    if figures["skipped"]:
        words.append(f"{figures['skipped']} skipped")
    return ", ".join(words)
