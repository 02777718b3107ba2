"""The page in a browser without a screen: Chromium as the system has it, driven by Playwright."""

import shutil

import numpy as np
import pytest
from page.folders import restoration

from pyro_vble.page import content_of, write_page

playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright (pip install playwright)")
_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return content_of(restoration(tmp_path_factory.mktemp("show") / "out", shape=(3, 60, 100)))


@pytest.fixture(scope="module")
def file(content, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "page.html", content)


@pytest.fixture
def page(browser, file):
    """A page that has asked for nothing and complained of nothing when the test is over."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page, complaints, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html.ready")
    yield page
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    context.close()


def point(page, row, column, shape=(60, 100)):
    box = page.locator("#stage").bounding_box()
    page.mouse.move(
        box["x"] + (column + 0.5) / shape[1] * box["width"], box["y"] + (row + 0.5) / shape[0] * box["height"]
    )


def test_the_pixel_under_the_pointer(page, content):
    point(page, 30, 70)
    words = page.inner_text("#readout")
    assert "Row 30, column 70" in words
    red = page.locator("#readout tbody tr").first.inner_text().split("\t")
    value, std, low = content.value[0, 30, 70], content.std[0, 30, 70], content.lower[0, 30, 70]
    assert red[0] == "red"
    assert float(red[1]) == pytest.approx(value, abs=std / 8 + 0.05)
    assert float(red[2]) == pytest.approx(std, rel=0.02, abs=0.05)
    ends = [float(end) for end in red[3].split(" to ")]
    assert ends == pytest.approx([value - low, value + low], abs=0.04 * low + std / 8 + 0.1)


def test_the_divider_is_dragged_and_follows_its_slider(page):
    box, grip = page.locator("#stage").bounding_box(), page.locator("#grip").bounding_box()
    middle = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    assert middle[0] == pytest.approx(box["x"] + box["width"] / 2, abs=1)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], middle[1])
    page.mouse.up()
    assert int(page.input_value("#divider")) == pytest.approx(200, abs=2)
    assert page.locator("#picture-0").evaluate("e => e.style.clipPath").startswith("inset(0px 80")
    page.focus("#divider")
    page.keyboard.press("End")
    assert page.locator("#picture-1").evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 100%)"


def test_two_samples_blink(page):
    def seen():
        return page.evaluate("[...document.querySelectorAll('#stage img:not(.hidden)')].map(e => e.id)")

    assert seen() == ["picture-0", "picture-1"]
    page.click("#blink")
    first = seen()
    page.wait_for_function("was => document.getElementById(was).classList.contains('hidden')", arg=first[0])
    assert [first, seen()] == [["picture-2"], ["picture-3"]]
    assert page.get_attribute("#blink", "aria-pressed") == "true"
    page.click("#blink")
    assert seen() == ["picture-0", "picture-1"]


def test_error_bars_in_colour(page, content):
    assert page.locator("#colours").is_hidden()
    page.check("#overlay")
    assert page.locator("#colours").is_visible()
    page.fill("#strength", "100")
    pixels = np.array(page.evaluate("""() => {
        const c = document.getElementById('colours');
        return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data);
    }""")).reshape(60, 100, 4)  # fmt: skip
    assert (pixels[..., 3] == 255).all()
    # The error bar grows to the right, and so does the brightness.
    brightness = pixels[..., :3].sum(-1).mean(0)
    assert np.corrcoef(brightness, content.std[0].mean(0))[0, 1] > 0.9


def test_by_keys_alone(page):
    page.focus("#viewport")
    page.keyboard.press("ArrowRight")
    assert "Row 30, column 51" in page.inner_text("#readout")
    page.keyboard.press("Shift+ArrowUp")
    assert "Row 20, column 51" in page.inner_text("#readout")
    page.keyboard.press("e")
    assert page.locator("#colours").is_visible()
    page.keyboard.press(".")
    assert page.input_value("#divider") == "520"
    page.keyboard.press("b")
    assert page.get_attribute("#blink", "aria-pressed") == "true"
    page.keyboard.press("z")
    assert page.locator("#stage").bounding_box()["width"] == pytest.approx(100)


def test_on_a_phone(browser, file):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html.ready")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#stage").tap(position={"x": 10, "y": 10})
    assert "Row " in page.inner_text("#readout")
    context.close()


def test_without_scripts_all_pictures_are_shown(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    tops = [page.locator(f"#picture-{k}").bounding_box()["y"] for k in range(4)]
    assert tops == sorted(set(tops))
    context.close()
