"""The labelling page in a real browser: strokes, undo, the live prediction, and what is on disk.

Chromium is found by `tests/conftest.py`; `make browser` says how it comes.
"""

import io
import os
import re
from contextlib import contextmanager

import numpy as np
import pytest
from made_sessions import SIZE, images, served, session_of
from PIL import Image

from core.images.labels import read_labels
from plugins.segmentation.io.classes import IGNORE

ARGUMENTS = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no other way
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser, server, width=1280, **options):
    """The page with its first image; at the end, that it said and fetched nothing else."""
    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(server.address)
    tab.wait_for_selector('body[data-image="0"]')
    yield tab
    context.close()
    assert said == []
    foreign = [u for u in asked if not u.startswith((server.address, "data:", "blob:"))]
    assert foreign == []


def place(tab, x, y):
    """Where a pixel of the image is on the page; the whole image is shown."""
    box = tab.locator("canvas").bounding_box()
    scale = min(40, 0.96 * min(box["width"] / SIZE[1], box["height"] / SIZE[0]))
    left = box["x"] + (box["width"] - scale * SIZE[1]) / 2
    top = box["y"] + (box["height"] - scale * SIZE[0]) / 2
    return left + scale * x, top + scale * y


def stroke(tab, start, end):
    """Drag the pointer between two pixels of the image, and wait until it is saved."""
    tab.mouse.move(*place(tab, *start))
    tab.mouse.down()
    tab.mouse.move(*place(tab, *end), steps=5)
    tab.mouse.up()
    settled(tab)


def shows(tab, selector, pattern):
    """Wait until an element's text matches; the page's policy forbids what evaluates in it."""
    from playwright.sync_api import expect

    expect(tab.locator(selector)).to_have_text(re.compile(pattern))


def settled(tab):
    shows(tab, "#saved", r"^Saved ")


def size(tab, pixels):
    tab.locator("#size").evaluate(
        "(one, to) => { one.value = to; one.dispatchEvent(new Event('input')); }", pixels
    )


def capsule(start, end, width):
    """Pixels whose centres are within half a width of a horizontal line."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    far = np.hypot(x - np.clip(x, start[0], end[0]), y - start[1])
    return far <= width / 2


def test_what_is_drawn_is_on_disk_and_can_be_undone(browser, tmp_path):
    folder = images(tmp_path)
    expected = np.full(SIZE, IGNORE)
    with served(session_of(folder)) as server, opened(browser, server) as tab:
        size(tab, 6)
        stroke(tab, (20.0, 24.0), (44.0, 24.0))
        mine = capsule((20, 24), (44, 24), 6)
        expected[mine] = 1
        found = read_labels(folder / "a_mask.png")
        assert found.shape == SIZE
        # The browser rounds the pointer to its own pixels: a pixel at the rim may differ.
        assert (found != expected).sum() <= 8
        assert (found == 1).sum() >= 150
        first = found
        tab.keyboard.press("1")
        stroke(tab, (4.0, 4.0), (12.0, 4.0))
        second = read_labels(folder / "a_mask.png")
        assert (second == 0).sum() > 40
        tab.keyboard.press("Control+z")
        tab.wait_for_selector("#redo:enabled")
        settled(tab)
        assert np.array_equal(read_labels(folder / "a_mask.png"), first)
        tab.keyboard.press("Control+y")
        tab.wait_for_selector("#redo:disabled")
        settled(tab)
        assert np.array_equal(read_labels(folder / "a_mask.png"), second)
        tab.keyboard.press("e")
        stroke(tab, (30.0, 24.0), (34.0, 24.0))
        assert read_labels(folder / "a_mask.png")[24, 32] == IGNORE
    # The page that is opened anew continues what is on disk.
    with served(session_of(folder)) as server, opened(browser, server) as tab:
        assert np.array_equal(server.session.mask(0)[:10], second[:10])
        assert tab.locator("#images .labelled").count() == 1


def test_the_prediction_is_seen_after_the_second_class_and_can_be_hidden(browser, tmp_path):
    with served(session_of(images(tmp_path))) as server, opened(browser, server) as tab:
        stroke(tab, (24.0, 24.0), (40.0, 24.0))
        tab.wait_for_selector('body[data-prediction="classes"]')
        tab.keyboard.press("1")
        stroke(tab, (8.0, 12.0), (8.0, 38.0))
        tab.wait_for_selector('body[data-prediction="ready"]')
        assert "disc" in tab.locator("#live").inner_text()
        left, top = place(tab, 32, 13)
        area, seen = {"x": left, "y": top, "width": 20, "height": 20}, {}
        for shown in (True, False):
            tab.locator("#prediction").set_checked(shown)
            tab.wait_for_timeout(100)
            with Image.open(io.BytesIO(tab.screenshot(clip=area))) as image:
                seen[shown] = np.asarray(image.convert("RGB")).mean((0, 1))
        # Nobody painted there; the disc is tinted with its class's red, and grey without.
        red, green, _ = seen[True]
        assert red > green + 30
        assert max(seen[False]) - min(seen[False]) < 5


def test_images_are_changed_zoomed_and_panned(browser, tmp_path):
    folder = images(tmp_path)
    with served(session_of(folder)) as server, opened(browser, server) as tab:
        tab.keyboard.press("PageDown")
        tab.wait_for_selector('body[data-image="1"]')
        before = tab.locator("#scale").inner_text()
        tab.mouse.move(*place(tab, 32, 24))
        tab.mouse.wheel(0, -400)
        shows(tab, "#scale", f"^(?!{before})")
        size(tab, 4)
        # The pixel under the pointer stays under it.
        tab.mouse.down()
        tab.mouse.up()
        settled(tab)
        found = read_labels(folder / "b_mask.png")
        assert found[24, 32] == 1
        assert (found == 1).sum() <= 16
        tab.keyboard.press("h")
        tab.mouse.down()
        tab.mouse.move(*place(tab, 40, 24))
        tab.mouse.up()
        assert np.array_equal(read_labels(folder / "b_mask.png"), found)
        tab.keyboard.press("0")
        shows(tab, "#scale", before)


def test_images_are_offered_in_the_order_of_their_uncertainty(browser, tmp_path):
    folder = images(tmp_path, ("a", "b", "c"))
    score = {"a": 0.1, "b": 0.2, "c": 0.3}
    session = session_of(folder, score=lambda path: score[path.stem])
    with served(session) as server, opened(browser, server) as tab:
        shows(tab, "#suggested", "^Suggested$")
        assert tab.locator("#images i").all_inner_texts() == ["#3", "#2", "#1"]
        tab.keyboard.press("s")
        tab.wait_for_selector('body[data-image="2"]')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_shows_all_without_scrolling_across(browser, tmp_path, scheme):
    names = ("a", "b", "an image with a long name without end " * 2)
    session = session_of(images(tmp_path, names), classes=("x", "y" * 60, "z"))
    with served(session) as server, opened(browser, server, 375, color_scheme=scheme) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375
        for one in tab.locator("button:visible, input:visible").all():
            one.scroll_into_view_if_needed()
            box = one.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 376


def test_an_image_that_cannot_be_read_is_said_on_the_page(browser, tmp_path):
    folder = images(tmp_path)
    session = session_of(folder)
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    context = browser.new_context()
    tab = context.new_page()
    with served(session) as server:
        tab.goto(server.address)
        tab.wait_for_selector('body[data-image="0"]')
        tab.keyboard.press("PageDown")
        tab.wait_for_selector("#trouble:visible")
        assert "b.png" in tab.locator("#trouble").inner_text()
        tab.keyboard.press("PageUp")
        tab.wait_for_selector('body[data-image="0"]')
        assert not tab.locator("#trouble").is_visible()
    context.close()


def test_a_stroke_waits_in_the_page_for_a_program_that_is_not_reached(browser, tmp_path):
    folder = images(tmp_path)
    context = browser.new_context()
    tab = context.new_page()
    with served(session_of(folder)) as server:
        tab.goto(server.address)
        tab.wait_for_selector('body[data-image="0"]')
        context.set_offline(True)
        tab.mouse.move(*place(tab, 32, 24))
        tab.mouse.down()
        tab.mouse.up()
        shows(tab, "#saved", "^Not saved")
        assert not (folder / "a_mask.png").exists()
        context.set_offline(False)
        settled(tab)
        assert read_labels(folder / "a_mask.png")[24, 32] == 1
    context.close()
