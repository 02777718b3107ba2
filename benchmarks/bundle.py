"""Make a bundled prior of the folders of its trainings: weights in half precision, and a card measured on them.

``python -m benchmarks.bundle cae-bsd --weights FILE --runs RUN ... --test FOLDER --images-of photographs --data ...``
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import pyro_vble as pv
from benchmarks import zoo
from benchmarks.codecs import CODECS
from pyro_vble.cli.models import figures_of
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.prior_files import save_prior
from pyro_vble.models import CAE
from pyro_vble.training import read_images
from pyro_vble.training.report import versions

WEIGHTS = Path(pv.__file__).parent / "weights"

# CompressAI's published mbt2018-mean on Kodak: alpha, dB, bits per pixel (FACTS of this project).
PUBLISHED = {0.013: (32.95, 0.461), 0.025: (34.97, 0.662), 0.0483: (36.91, 0.914), 0.0932: (38.84, 1.234)}


def published_psnr(bpp: float) -> float | None:
    """The published curve at a rate, interpolated; None outside of it."""
    points = sorted((rate, psnr) for psnr, rate in PUBLISHED.values())
    for (low, psnr_low), (high, psnr_high) in itertools.pairwise(points):
        if low <= bpp <= high:
            return psnr_low + (psnr_high - psnr_low) * (bpp - low) / (high - low)
    return None


def main() -> None:
    """Convert, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--weights", type=Path, required=True, help="prior.safetensors, or another file of a prior")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of its trainings, first to last")
    parser.add_argument("--after", metavar="NAME", help="bundled prior that the first of them went on from")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--held-out", type=int, help="measure on so many that a training of these images held out")
    parser.add_argument("--images-of", required=True)
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--licence", required=True, help="of the data")
    parser.add_argument("--note", default="")
    parser.add_argument("--dtype", default="float16", choices=("float32", "float16", "bfloat16"))
    options = parser.parse_args()

    earlier = pv.load_card(options.after)["training"] if options.after else []
    prior = pv.load_prior(options.weights)
    images = read_images(options.test, bands=prior.bands)
    if options.held_out:
        images = images.split(options.held_out)[1]
    full, _ = figures_of(prior, images, "float32")
    target = WEIGHTS / f"{options.name}.safetensors"
    save_prior(prior, target, dtype=options.dtype)
    shipped = pv.load_prior(target)
    evaluation, calibrated = figures_of(shipped, images, "float32")
    parts = options.test.parts
    card = {
        "name": options.name,
        "model": type(prior).__name__,
        "architecture": type(prior.network).__name__ if isinstance(prior, CAE) else "convolutional_vae",
        "sizes": {"N": prior.network.N, "M": prior.network.M} if isinstance(prior, CAE) else prior.architecture,
        "parameters": sum(p.numel() for p in prior.parameters()),
        "alpha": getattr(prior, "alpha", None),
        "distortion": getattr(prior, "distortion", None),
        "images_of": options.images_of,
        "data": options.data,
        "licence_of_data": options.licence,
        "file": target.name,
        "bytes": target.stat().st_size,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "dtype": options.dtype,
        "measured_on": f"{'/'.join(parts[-2:])}, {len(images.images)} images" + (" held out" * bool(options.held_out)),
        "measured": dataclasses.asdict(evaluation)
        | {"calibration": dataclasses.asdict(calibrated) if calibrated else None},
        "measured_before_rounding": dataclasses.asdict(full),
        "versions": versions(),
        "training": earlier + [json.loads((run / "card.json").read_text()) for run in options.runs],
        "note": options.note,
    }
    if isinstance(shipped, CAE) and shipped.alpha is not None:
        sides = [max(image.shape[1:]) for image in images.images]
        whole = [images.middle(i, side, 1) for i, side in enumerate(sides)]
        rows = {name: zoo.of_codec(name, whole, shipped.alpha) for name in CODECS}
        rows |= zoo.of_prior(shipped, whole, shipped.alpha)
        card["yardstick"] = {
            "what": "alpha·255²·MSE + bits per pixel, beside classical codecs at their best setting for it",
            "rows": {name: dataclasses.asdict(row) for name, row in rows.items()},
        }
    if evaluation.bpp_quantised is not None:
        curve = published_psnr(evaluation.bpp_quantised)
        card["published_curve"] = {
            "what": "CompressAI mbt2018-mean on Kodak, interpolated at this rate; other images than these",
            "psnr": curve,
            "below_by": None if curve is None else curve - evaluation.psnr_quantised,
        }
    with atomic_path(WEIGHTS / f"{options.name}.json") as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps({key: card[key] for key in ("name", "bytes", "measured")}, indent=2))


if __name__ == "__main__":
    main()
