"""The log of a training: a CSV file, and TensorBoard where it is wanted."""

import csv
import os
from pathlib import Path
from typing import Any

from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_path, errors_named

COLUMNS: tuple[str, ...] = (
    "step",
    "seconds",
    "lr",
    "loss",
    "psnr",
    "rate",
    "images_per_second",
    "skipped",
    "validation_psnr",
)


class TrainingLog:
    """Rows of figures by step, written as they come.

    Args:
        folder: Where ``log.csv`` goes, and TensorBoard's files.
        rows: Rows from before, when a training is resumed; whatever the file held beyond them is dropped.
        tensorboard: Whether to write for TensorBoard as well.

    Raises:
        ImportError: If TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]], tensorboard: bool = False) -> None:
        self.path, self.rows = folder / "log.csv", rows
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.board = _board(folder, int(rows[-1]["step"]) + 1 if rows else 0) if tensorboard else None

    def write(self, row: dict[str, float]) -> None:
        """Add a row."""
        self.rows.append(row)
        with errors_named(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        if self.board is not None:
            for name, value in row.items():
                if name not in ("step", "seconds"):
                    self.board.add_scalar(name, value, row["step"])

    def mark(self, step: int, seconds: float, validation_psnr: float) -> None:
        """Add the row of a checkpoint, once."""
        if not any(row["step"] == step and "validation_psnr" in row for row in self.rows[-2:]):
            self.write({"step": step, "seconds": round(seconds, 1), "validation_psnr": round(validation_psnr, 4)})

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self.board is not None:
            self.board.close()


def _board(folder: Path, step: int) -> Any:
    with extra("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(os.fspath(folder / "tensorboard"), purge_step=step)
