"""The page in a real Chromium: an image is dropped, a box is drawn with the mouse, the mask is seen, moved and kept."""

import base64
import time

import numpy as np
import pytest
from headless_browser import CHROMIUM, PATIENCE_S, Browser

from fedmentor.pages.hosts import LOOPBACK
from fedmentor.pages.server import serving
from fedmentor.teacher.client import TeacherClient
from fedmentor.teacher.images import png_bytes, read_image
from fedmentor.teacher.payload import decode_answer
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.door import InProcessDoor
from teacher_service.playground import playground

pytestmark = pytest.mark.e2e

HEIGHT, WIDTH = 150, 200
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


class PlaygroundBrowser(Browser):
    """A browser with a mouse on the page's image."""

    def mouse(self, *steps):
        """(kind, x, y) on the image, in its own pixels."""
        frame = self.value("(r => [r.left, r.top, r.width, r.height])(document.getElementById('canvas').getBoundingClientRect())")
        for kind, x, y in steps:
            place = {"x": frame[0] + x * frame[2] / WIDTH, "y": frame[1] + y * frame[3] / HEIGHT}
            self.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **place)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    browser = PlaygroundBrowser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """The page of a teacher that draws ellipses, with an image dropped on it; downloads land in tmp_path."""
    failures = []
    with serving((LOOPBACK, 0), playground(TeacherClient(InProcessDoor(AnalyticTeacher())), failures.append)) as url:
        browser._session = None
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        browser.open(url, "playground.card !== null")
        drop(browser, png_bytes(PIXELS), "x.png")
        browser.until("playground.picture !== null")
        yield browser
    assert failures == []


def drop(browser, data, name):
    """As if a person dropped a file on the page."""
    text = base64.b64encode(data).decode()
    browser.value(
        f"""(() => {{ const bytes = Uint8Array.from(atob("{text}"), c => c.charCodeAt(0)), list = new DataTransfer();
        list.items.add(new File([bytes], "{name}")); document.getElementById("stage").dispatchEvent(
        new DragEvent("drop", {{dataTransfer: list, bubbles: true, cancelable: true}})); }})()"""
    )


def draw_box(page):
    page.mouse(("mousePressed", 40, 30), ("mouseMoved", 100, 60), ("mouseMoved", 160, 120), ("mouseReleased", 160, 120))
    page.until("playground.map !== null")


def downloaded(folder, name):
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return (folder / name).read_bytes()


def test_a_box_drawn_with_the_mouse_becomes_a_mask(page):
    draw_box(page)
    (box,) = page.value("playground.boxes")
    assert np.allclose(box, [40, 30, 160, 120], atol=1.5)
    ellipse = np.pi / 4 * 120 * 90 / (WIDTH * HEIGHT)
    assert page.value("playground.area") == pytest.approx(ellipse, abs=0.01)
    tinted = page.value("[...document.getElementById('canvas').getContext('2d').getImageData(100, 75, 1, 1).data]")
    assert tinted[1] - tinted[0] > 20  # teal over grey
    assert page.value("document.getElementById('iou').textContent") == "1.00"


def test_the_threshold_moves_the_contour(page):
    draw_box(page)
    page.value("(s => { s.value = 0.95; s.dispatchEvent(new Event('input')) })(document.getElementById('threshold'))")
    smaller = page.value("playground.area")
    page.value("(s => { s.value = 0.05; s.dispatchEvent(new Event('input')) })(document.getElementById('threshold'))")
    assert smaller < 0.9 * page.value("playground.area")


def test_mask_and_soft_label_are_kept(page, tmp_path):
    draw_box(page)
    page.value("document.getElementById('save-mask').click()")
    mask = read_image(downloaded(tmp_path, "mask.png"))[..., 0] > 127
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.mean() == pytest.approx(page.value("playground.area"), abs=1e-3)
    page.value("document.getElementById('save-soft').click()")
    soft = decode_answer(downloaded(tmp_path, "soft-label.safetensors"))
    assert soft.image_size == (HEIGHT, WIDTH)
    assert len(soft.prompt.boxes) == 1


def test_an_automatic_prompt_and_a_fresh_start(page):
    page.value("document.getElementById('whole').click()")
    page.until("playground.map !== null")
    assert page.value("playground.boxes") == [[0, 0, WIDTH, HEIGHT]]
    page.value("document.getElementById('clear').click()")
    assert page.value("[playground.map, playground.boxes.length, document.getElementById('save-mask').disabled]") == [None, 0, True]


def test_points_are_offered_only_where_the_teacher_takes_them(page):
    assert page.value("[document.getElementById('inside').disabled, document.getElementById('box').disabled]") == [True, False]
    assert "analytic-ellipse" in page.value("document.getElementById('card').textContent")


def test_what_is_no_image_is_told_on_the_page(page):
    drop(page, b"text", "x.txt")
    page.until("document.getElementById('message').textContent.includes('not a PNG')")


def test_nothing_is_asked_of_anybody_else(page):
    hosts = page.value("performance.getEntries().filter(e => e.name.startsWith('http')).map(e => new URL(e.name).hostname)")
    assert hosts
    assert set(hosts) == {"127.0.0.1"}


def test_nothing_breaks_the_policy(page):
    assert page.value("(() => { try { document.body.innerHTML = '<p>' } catch (error) { return error.name } })()") == "TypeError"
