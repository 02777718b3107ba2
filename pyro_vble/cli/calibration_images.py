"""The images of a calibration: truths, and their measurements if there are any."""

from pathlib import Path

from torch import Tensor

from pyro_vble.cli.measurement import check_scale
from pyro_vble.cli.problems import Problem
from pyro_vble.io.images import SUFFIXES, evenly_spaced, images_in


class CalibrationImages:
    """The images of a folder, each with its measurement of the same name in another, if that is given.

    Args:
        truths: Folder of the truths.
        measurements: Folder of their measurements.
        problem: What happened, or is to happen, to the truths.
        crop: Side of the square cut from the middle of each truth.
        scale: The value in the files that is 1.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there is no image.
    """

    def __init__(
        self, truths: Path, measurements: Path | None, *, problem: Problem, crop: int, scale: float | None
    ) -> None:
        self.folder, self.measurements = truths, measurements
        self.problem, self.crop, self.scale = problem, crop, scale
        self._truths = images_in(truths)
        self._measured = [] if measurements is None else images_in(measurements)
        if not self._truths:
            raise ValueError(f"The folder must hold images ({', '.join(SUFFIXES)}); {truths} holds none.")

    @property
    def files(self) -> list[Path]:
        """All that may be read."""
        return self._truths + self._measured

    def chosen(self, count: int) -> list[Path]:
        """So many of the truths, evenly spaced among those that can be used; the others met are named.

        Raises:
            ValueError: If none can be used.
        """
        from pyro_vble.cli.report import tell_skipped

        left, sound, reasons = list(self._truths), set(), []
        while left:
            chosen = evenly_spaced(left, count)
            for path in chosen:
                if path in sound:
                    continue
                try:
                    self.read(path)
                    sound.add(path)
                except (ValueError, OSError, MemoryError) as error:
                    tell_skipped(path, str(error))
                    reasons.append(str(error))
                    left.remove(path)
            if sound.issuperset(chosen):
                return chosen
        raise ValueError(f"None of the {len(self._truths)} images in {self.folder} can be used: {reasons[0]}")

    def read(self, path: Path) -> tuple[Problem, Tensor, Tensor | None]:
        """The problem, with what the files say of it, the middle of a truth, and that of its measurement.

        Raises:
            FileNotFoundError: If it has no measurement.
            ValueError: If it cannot be used.
        """
        ratio, side = self.problem.ratio, self.crop // self.problem.ratio
        read = self.problem.read_truth if self.measurements is None else self.problem.read
        problem, source = read(path, self.scale)
        whole = source.values
        check_scale(whole, self.scale, by_sensor=source.radiometry is not None)
        if not bool(whole.isfinite().any()):
            raise ValueError("All of its pixels are missing.")
        if self.measurements is None:
            return problem, whole[_centre([length // ratio for length in whole.shape[-2:]], side, ratio)], None
        problem, measured = self.problem.read(self._measurement_of(path), self.scale)
        y = measured.values
        if [ratio * length for length in y.shape[-2:]] != list(whole.shape[-2:]) or y.shape[1] != whole.shape[1]:
            raise ValueError(
                f"A truth must be {ratio} times the size of its measurement, of as many bands; {path.name} has "
                f"{tuple(whole.shape[1:])} for {tuple(y.shape[1:])}; crop them alike."
            )
        window = list(y.shape[-2:]), side
        return problem, whole[_centre(*window, ratio)], y[_centre(*window, 1)]

    def _measurement_of(self, path: Path) -> Path:
        found = [other for other in self._measured if other.stem == path.stem]
        if not found:
            raise FileNotFoundError(
                f"Every image needs its measurement; {self.measurements} has none named {path.stem}."
            )
        return found[0]


def _centre(size: list[int], side: int, ratio: int) -> tuple:
    """The window of the middle of an image, at most a square of this side, on a grid ``ratio`` times finer."""
    kept = [min(side, whole) for whole in size]
    starts = [(whole - own) // 2 for whole, own in zip(size, kept, strict=True)]
    return (..., *(slice(ratio * a, ratio * (a + n)) for a, n in zip(starts, kept, strict=True)))
