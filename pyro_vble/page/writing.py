"""A page as a file."""

import html
import importlib.resources
import json
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import PathName, checked, instance_of
from pyro_vble._version import __version__
from pyro_vble.io.atomic import atomic_path
from pyro_vble.page.content import Content
from pyro_vble.page.encoding import packed_values, packed_widths, picture_uri
from pyro_vble.page.words import plain

# Colours of the error bars, and the share of pixels within their scale.
_STOPS, _WITHIN = 24, 0.995
_READING = (
    "The error bar says how sure it is of a pixel: the standard deviation, and the interval that holds the true value "
    "with a probability of {percent} %, if the error bars are calibrated. Two blinking samples show the same to the "
    "eye: what stays is known, and what jumps is not."
)


@checked
def write_page(path: PathName, content: Annotated[Any, instance_of("a Content", Content)]) -> Path:
    """Write a restoration as one HTML page, which needs no other file and asks for none; returns its path.

    With a divider between two pictures, blinking samples, error bars in colour, and value, standard deviation and
    interval of the pixel under the cursor. A colour image of 1024x1024 pixels takes 7 to 9 MB.

    Raises:
        OSError: If it cannot be written.
        TypeError: If an argument is of a wrong type.

    Example:
        >>> import numpy as np, tempfile
        >>> from pyro_vble.page import Content, Picture, write_page
        >>> values = np.linspace(0, 255, 64).reshape(1, 8, 8)
        >>> picture = Picture("Restored", "A ramp.", values / 255)
        >>> bar = np.full_like(values, 4.0)
        >>> content = Content("Ramp", "", (picture,), 0, values, bar, 1.6 * bar, 1.6 * bar, ("grey",), (8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     "<title>Ramp</title>" in write_page(f"{folder}/ramp.html", content).read_text()
        True
    """
    text = _page(content)
    with atomic_path(path) as temporary:
        # A file's name need not be text; what is none of it is shown as a question mark.
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return Path(path)


def _page(content: Content) -> str:
    arrays = {"value": packed_values(content.value, content.step, content.std)}
    bars = content.std is not None and content.lower is not None
    percent = f"{100 * content.probability:g}"
    top, scale_top = 1.0, ""
    if content.std is not None and content.lower is not None:
        # In standard deviations the ends of intervals differ little from pixel to pixel.
        arrays |= {"std": packed_widths(content.std), "lower": packed_widths(_in_stds(content.lower, content.std))}
        if content.upper is not None and content.upper is not content.lower:
            arrays["upper"] = packed_widths(_in_stds(content.upper, content.std))
        mean = content.std.mean(0)
        known = mean[np.isfinite(mean)]
        top = float(np.quantile(known, _WITHIN)) if known.size else 1.0
        top = top or 1.0
        scale_top = plain(top)
    about = {
        "pictures": [{"name": picture.name, "sample": picture.sample} for picture in content.pictures],
        "right": content.restored,
        "shape": content.value.shape,
        "size": content.size,
        "step": content.block,
        "bands": content.bands,
        "unit": content.unit,
        "percent": percent,
        "decimals": 0 if content.step >= 1 else 2,
        "bars": bars,
        "top": top,
        "stops": _colours(),
        "arrays": {name: packed.about for name, packed in arrays.items()},
    }
    parts = {
        "generator": f"pyro-vble {__version__}",
        "title": html.escape(content.title),
        "lead": html.escape(content.lead),
        "notes": "\n".join(f'<p class="note">{html.escape(note)}</p>' for note in content.notes),
        "scale_unit": html.escape(f", {content.unit}" if content.unit else ""),
        "scale_top": scale_top,
        "scale_alt": f"Colours of the standard deviation, from 0 (dark) to {scale_top} (bright)",
        "reading": _READING.format(percent=percent) if bars else "This one has no error bars.",
        "pictures": "\n".join(
            f'<img id="picture-{i}" alt="{html.escape(one.alt)}" src="{picture_uri(one.values)}">'
            for i, one in enumerate(content.pictures)
        ),
        "figures": "\n".join(
            f'<tr><th scope="row">{html.escape(one.name)}</th><td>{html.escape(one.value)}</td>'
            f'<td class="meaning">{html.escape(one.meaning)}</td></tr>'
            for one in content.figures
        ),
        # Within a script nothing but its end tag means anything to HTML.
        "about": json.dumps(about).replace("</", "<\\/"),
        "arrays": "\n".join(
            f'<script type="text/plain" id="array-{name}">{packed.text}</script>' for name, packed in arrays.items()
        ),
        "style": _template("page.css"),
        "script": _template("page.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _template("page.html"))


def _in_stds(widths: np.ndarray, std: np.ndarray) -> np.ndarray:
    return np.where(std == 0, 0.0, widths / np.where(std == 0, 1.0, std))


def _template(name: str) -> str:
    return importlib.resources.files("pyro_vble.page").joinpath(name).read_text(encoding="utf-8")


def _colours() -> list[list[int]]:
    """Stops [red, green, blue] of the map in which figures show errors."""
    from matplotlib import colormaps

    return [[round(255 * part) for part in colour[:3]] for colour in colormaps["magma"](np.linspace(0, 1, _STOPS))]
