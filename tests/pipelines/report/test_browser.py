"""The page in a real browser: it runs as its policy allows, shows what it is given, hides nothing.

Chromium is found by `tests/conftest.py`; `make browser` says how it comes.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from made_runs import XSS, ball, clip, finished, metrics, three_steps, with_panels, with_viewers
from PIL import Image

from core.results.panels import write_panels
from core.storage import files
from core.task import Panel
from pipelines.report import render
from pipelines.report.request import ReportRequest
from pipelines.store import results

ARGUMENTS = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no other way
pytestmark = pytest.mark.browser
WIDTHS = (375, 1280)
# Mean of the drawn pixels' red, green, blue and alpha, and how many values there are.
LOOK = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const sum = [0, 0, 0, 0], seen = new Set();
  let hash = 0;
  for (let i = 0; i < data.length; i++) {
    sum[i % 4] += data[i]; seen.add(data[i]); hash = (hash * 31 + data[i]) | 0;
  }
  return {mean: sum.map(s => 4 * s / data.length), values: seen.size, hash};
}"""


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A report with viewers of every kind, on disk."""
    root = tmp_path_factory.mktemp("shown")
    (root / "out").mkdir()
    return render.report(ReportRequest(), with_viewers(root), root / "out").report


@contextmanager
def opened(browser, path, width=1280, **options) -> Iterator:
    """The page with its viewers started; at the end, that nothing was said or asked for."""
    from playwright.sync_api import expect

    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    for viewer in tab.locator(".viewer").all():
        viewer.scroll_into_view_if_needed()
        expect(viewer).to_have_attribute("data-ready", "yes")
    yield tab
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []


def slide(tab, viewer, name, to):
    """Move a slider as a script of the page would see a hand do it."""
    viewer.locator(f"input[name={name}]").evaluate(
        "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input')); }", to
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_drawn_without_a_word_at_any_width(browser, shown, width, scheme):
    with opened(browser, shown, width, color_scheme=scheme) as tab:
        assert {v.get_attribute("data-ready") for v in tab.locator(".viewer").all()} == {"yes"}
        for canvas in tab.locator("canvas").all():
            look = canvas.evaluate(LOOK)
            assert look["values"] > 10
            assert max(look["mean"][:3]) > 1
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, ground[4:-1].split(","))) < 60) == (scheme == "dark")
        broken = "[...document.images].filter(i => i.getAttribute('src') && !i.naturalWidth).length"
        assert tab.evaluate(broken) == 0
        small = tab.locator("button:visible, select:visible").evaluate_all(
            "all => all.filter(e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"
        )
        assert small == []


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [("clips", "frame", (0, 5)), ("volumes", "slice", (12, 7)), ("volumes", "level", (0, 300)),
     ("volumes", "window", (2000, 400)), ("clouds", "turn", (0, 40)), ("clouds", "tilt", (0, 40)),
     ("clouds", "size", (3, 8))],
)  # fmt: skip
def test_a_slider_changes_every_view_of_its_panel_and_back(browser, shown, kind, name, values):
    with opened(browser, shown) as tab:
        viewer = tab.locator(f".viewer[data-kind={kind}]")
        looks = []
        for value in (*values, values[0]):
            slide(tab, viewer, name, value)
            looks.append([c.evaluate(LOOK) for c in viewer.locator("canvas").all()])
        for first, second, again in zip(*looks, strict=True):
            assert first["hash"] != second["hash"]
            assert first == again


def test_a_clip_shows_its_own_frames(browser, shown):
    from playwright.sync_api import expect

    frames = clip()
    with opened(browser, shown) as tab:
        viewer = tab.locator(".viewer[data-kind=clips]")
        for at in (0, 3, 11):
            slide(tab, viewer, "frame", at)
            mean = viewer.locator("canvas").nth(1).evaluate(LOOK)["mean"]
            assert mean[:3] == pytest.approx(frames[at].reshape(-1, 3).mean(0), abs=1e-6)
        assert viewer.locator("output").inner_text() == "12 of 12"
        viewer.locator("button").click()
        expect(viewer.locator("output")).not_to_have_text("12 of 12")
        assert viewer.locator("button").get_attribute("aria-pressed") == "true"
        viewer.locator("button").click()
        assert viewer.locator("button").inner_text() == "Play"


@pytest.mark.parametrize("axis", ["0", "1", "2"])
def test_a_volume_is_cut_and_windowed_as_its_values_say(browser, shown, axis):
    values = -1000 + 2000 * ball().astype(float) / 65535
    with opened(browser, shown) as tab:
        viewer = tab.locator(".viewer[data-kind=volumes]")
        viewer.locator("select").select_option(axis)
        slide(tab, viewer, "slice", 9)
        slide(tab, viewer, "level", 100)
        slide(tab, viewer, "window", 1200)
        level, window = (
            float(viewer.locator(f"[name={n}]").input_value()) for n in ("level", "window")
        )
        expected = 255 * ((values.take(9, int(axis)) - level) / window + 0.5).clip(0, 1)
        canvas = viewer.locator("canvas").first
        found = canvas.evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )
        found = [found[i] for i in range(0, len(found), 4)]
        if axis != "0":
            expected = expected[::-1]  # the first slice is lowest
        assert len(found) == expected.size
        assert max(abs(a - b) for a, b in zip(found, expected.ravel(), strict=True)) <= 0.51
        box = canvas.bounding_box()
        shape = {"0": 40 / 32, "1": 40 / 48, "2": 32 / 48}[axis]  # a slice is 2 voxels thick
        assert box["width"] / box["height"] == pytest.approx(shape, rel=0.02)
        assert viewer.locator("output").inner_text().startswith("10 of ")
        viewer.locator("button").click()
        assert float(viewer.locator("[name=window]").input_value()) == 800


def test_turning_a_cloud_by_half_mirrors_it(browser, shown):
    with opened(browser, shown) as tab:
        viewer = tab.locator(".viewer[data-kind=clouds]")
        slide(tab, viewer, "tilt", 0)
        slide(tab, viewer, "size", 1)
        drawn = []
        for turn in (0, 180):
            slide(tab, viewer, "turn", turn)
            drawn.append(viewer.locator("canvas").first.evaluate(
                """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                const rows = new Array(c.height).fill(0);
                for (let i = 3; i < d.length; i += 4) if (d[i]) rows[Math.floor(i / 4 / c.width)]++;
                return rows; }"""))  # fmt: skip
        tops = [[at for at, count in enumerate(rows) if count] for rows in drawn]
        # A torus lying flat, seen from 4 away: its tube, 0.286 thick and 0.714 from the middle of a
        # cube of 2, looks 4 x 0.286 / sqrt(3.286^2 - 0.286^2) high; discs add 2.4 pixels.
        high = 2 * 0.37 * 720 * 4 * 0.4 / 1.4 / ((4 - 1 / 1.4) ** 2 - (0.4 / 1.4) ** 2) ** 0.5
        for rows in tops:
            assert 360 - rows[0] == pytest.approx(rows[-1] - 360, abs=4)
            assert rows[-1] - rows[0] == pytest.approx(high + 2.4, abs=4)
        assert sum(drawn[0]) == pytest.approx(sum(drawn[1]), rel=0.05)


def test_the_slider_over_two_pictures_cuts_where_it_says(browser, shown):
    with opened(browser, shown) as tab:
        compare = tab.locator(".compare").first
        for percent in (20, 80):
            compare.locator("input").evaluate(
                "(s, to) => { s.value = to; s.dispatchEvent(new Event('input')); }", percent
            )
            clip = compare.locator("img.after").evaluate("i => getComputedStyle(i).clipPath")
            assert clip == f"inset(0px 0px 0px {percent}%)"
        alone = compare.locator("img.before").get_attribute("src")
        compare.locator("select.before").select_option("0")
        assert compare.locator("img.before").get_attribute("src") != alone
        assert compare.locator("img.before").get_attribute("alt") == "coffee, patch 3, low-res"


def test_the_keyboard_reaches_and_moves_everything(browser, shown):
    with opened(browser, shown) as tab:
        tab.evaluate("scrollTo(0, 0); document.activeElement.blur()")
        reached, moved = [], set()
        for _ in range(80):
            tab.keyboard.press("Tab")
            at = tab.evaluate("""() => { const e = document.activeElement;
                return {tag: e.tagName, id: e.id, name: e.name || '', type: e.type || '',
                        kind: e.closest('.viewer')?.dataset.kind || '',
                        seen: getComputedStyle(e.closest('.pair') || e).outline}; }""")
            if at["tag"] == "BODY":
                break
            assert "none" not in at["seen"], at
            assert "0px" not in at["seen"].split(), at
            reached.append(at)
            if at["type"] == "range":
                before = tab.evaluate("document.activeElement.value")
                tab.keyboard.press("ArrowRight")
                assert tab.evaluate("document.activeElement.value") != before
                moved.add(at["kind"] + at["name"])
        assert {"clipsframe", "volumesslice", "volumeslevel", "cloudsturn"} <= moved
        assert [at["kind"] for at in reached if at["tag"] == "CANVAS"] == ["clouds", "clouds"]
        assert reached[0]["id"] == "theme"
        cloud = tab.locator(".viewer[data-kind=clouds] canvas").first
        before = cloud.evaluate(LOOK)
        cloud.focus()
        tab.keyboard.press("ArrowLeft")
        assert cloud.evaluate(LOOK) != before


def test_a_picture_is_enlarged_and_left_by_keys(browser, shown):
    with opened(browser, shown) as tab:
        button = tab.locator(".zoom").first
        button.focus()
        tab.keyboard.press("Enter")
        assert tab.locator("dialog img").get_attribute("alt") == "coffee, patch 3, low-res"
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#enlarged-name").inner_text() == "coffee, patch 3, bicubic"
        tab.keyboard.press("Escape")
        assert not tab.locator("dialog").is_visible()
        assert button.evaluate("b => b === document.activeElement")


def test_the_theme_goes_round(browser, shown):
    with opened(browser, shown, color_scheme="dark") as tab:
        grounds = []
        for _ in range(4):
            grounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            tab.locator("#theme").click()
        assert grounds[0] == grounds[2] == grounds[3] != grounds[1]  # auto, light, dark, auto


def test_hostile_text_is_shown_as_text(browser, tmp_path):
    texts = iter(XSS * 2)
    run = with_viewers(tmp_path, label=lambda _: next(texts))
    place = run["evaluate"] / "metrics.json"
    hostile = json.loads(place.read_text())
    hostile["sources"], hostile["task"] = XSS, XSS[0]
    hostile["methods"][XSS[4]] = hostile["methods"].pop("one sample")
    files.write_json(place, hostile)
    request = results.read_json(run["sample"] / "request.json")
    request["identity"]["request"] = {XSS[i]: XSS[-i] for i in range(len(XSS))}
    files.write_json(run["sample"] / "request.json", request)
    inputs = {**{name: run[name] for name in ("train", "evaluate")}, XSS[2]: run["sample"]}
    (tmp_path / "out").mkdir()
    path = render.report(ReportRequest(title=XSS[5]), inputs, tmp_path / "out").report
    with opened(browser, path, 375) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        text = tab.inner_text("body")
        assert [string for string in XSS if string not in text] == []
        assert tab.title() == XSS[5]
        assert tab.locator("script").count() == 1
        assert tab.locator("iframe, a[href^=http], [onload], [onerror], [onmouseover]").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375
        for button in tab.locator(".zoom").all()[:3]:
            button.click()
            tab.keyboard.press("Escape")


def test_what_the_policy_forbids_does_not_run(browser, tmp_path):
    """A hole in the escaping would still run nothing: the policy is planted against one."""
    (tmp_path / "out").mkdir()
    path = render.report(ReportRequest(), three_steps(tmp_path), tmp_path / "out").report
    planted = '<script>document.title = "taken"</script><img src=x onerror="document.title=1">'
    text = path.read_text()
    path.write_text(text.replace("</main>", f"{planted}</main>"))
    tab = browser.new_page()
    refused = []
    tab.on("console", lambda message: refused.append(message.text))
    tab.goto(path.as_uri())
    assert tab.title() == "image2image/sr3: evaluation"
    assert len([line for line in refused if "Content Security Policy" in line]) == 3
    tab.close()


def test_a_page_without_pictures_and_one_with_single_ones(browser, tmp_path):
    run = three_steps(tmp_path)
    (tmp_path / "a").mkdir()
    with opened(
        browser, render.report(ReportRequest(), {"train": run["train"]}, tmp_path / "a").report
    ) as tab:
        assert tab.locator(".graph a").count() == 1
    singles = with_panels(run["evaluate"], 5)
    for panel in singles:
        panel["images"] = panel["images"][-1:]
    files.write_json(run["evaluate"] / "metrics.json", metrics(panels=singles))
    (tmp_path / "b").mkdir()
    with opened(browser, render.report(ReportRequest(), run, tmp_path / "b").report, 375) as tab:
        assert tab.locator(".panel").count() == 1
        assert tab.locator(".images.single .zoom").count() == 5
        tab.locator(".zoom").first.click()
        tab.keyboard.press("ArrowLeft")
        assert tab.locator("dialog").is_visible()


def test_a_box_of_the_graph_opens_the_options_of_its_step(browser, shown):
    with opened(browser, shown) as tab:
        tab.locator(".graph a").nth(1).focus()
        tab.keyboard.press("Enter")
        assert tab.locator("details.step[open] summary").inner_text().startswith("sample")
        assert "From train; result in store/sample-" in tab.inner_text("details.step[open]")


def test_a_cloud_tilted_to_the_viewer_shows_its_top(browser, shown):
    turn = np.linspace(0, 2 * np.pi, 1000)
    reach = ((1 + 0.4 * np.cos(turn)) / 1.4) * 4 / (4 - 0.4 / 1.4 * np.sin(turn))  # seen from above
    with opened(browser, shown) as tab:
        viewer = tab.locator(".viewer[data-kind=clouds]")
        slide(tab, viewer, "size", 6)
        seen = {}
        for tilt in (90, -90):
            slide(tab, viewer, "tilt", tilt)
            seen[tilt] = viewer.locator("canvas").first.evaluate(
                """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                let top = c.height, bottom = 0, left = c.width, right = 0, red = 0, count = 0;
                for (let i = 0; i < d.length; i += 4) if (d[i + 3]) {
                  const x = i / 4 % c.width, y = Math.floor(i / 4 / c.width);
                  top = Math.min(top, y); bottom = Math.max(bottom, y); red += d[i]; count++;
                  left = Math.min(left, x); right = Math.max(right, x);
                }
                return {high: bottom - top, wide: right - left, red: red / count}; }"""
            )
            for extent in (seen[tilt]["high"], seen[tilt]["wide"]):
                assert extent == pytest.approx(2 * 0.37 * 720 * reach.max() + 12, abs=6)
        assert seen[90]["red"] > 1.5 * seen[-90]["red"]  # high points are yellow, low ones violet


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_with_long_names_and_many_methods(browser, tmp_path, width):
    """Two choices of long labels side by side were 609 pixels wide on a page of 375."""
    run = three_steps(tmp_path)
    names = [f"mean of 8 after {k} back-projections" for k in range(9)]
    panels = with_panels(run["evaluate"], 3)
    for panel in panels:
        panel["images"] = [
            {**panel["images"][0], "label": label} for label in ("low-res", *names, "truth")
        ]
    files.write_json(run["evaluate"] / "metrics.json", metrics(panels=panels))
    (tmp_path / "out").mkdir()
    path = render.report(ReportRequest(), run, tmp_path / "out").report
    with opened(browser, path, width) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        for choice in tab.locator(".pickers select").all():
            box = choice.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        row = tab.locator(".panel > .images").first
        for at in (0, 1):  # first and last of the row: the truth is beside them
            row.evaluate("(r, at) => { r.scrollLeft = at * r.scrollWidth; }", at)
            place, edge = row.locator(".truth").bounding_box(), row.bounding_box()
            assert edge["x"] <= place["x"]
            assert place["x"] + place["width"] <= edge["x"] + edge["width"] + 1


@pytest.mark.parametrize("width", WIDTHS)
def test_a_photograph_is_shown_whole_beside_a_crop_at_its_own_size(browser, tmp_path, width):
    """Both under sliders: at the left end all is the result, at the right end the input."""
    step = finished(tmp_path, "enlarge", "apply", {})
    colours = {"input, enlarged": (200, 40, 40), "result": (40, 40, 200)}
    whole, crop = (
        {label: np.full((*size, 3), rgb, np.uint8) for label, rgb in colours.items()}
        for size in ((900, 1600), (288, 288))
    )
    (step / "pictures").mkdir()
    views = write_panels([Panel("a.png", images=crop, whole=whole)], step / "pictures")
    files.write_json(step / "panels.json", {"panels": views})
    (tmp_path / "out").mkdir()
    path = render.report(ReportRequest(), {"enlarge": step}, tmp_path / "out").report
    with opened(browser, path, width) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        boxes = {kind: tab.locator(f".{kind} .pair").bounding_box() for kind in ("whole", "crop")}
        assert boxes["crop"]["width"] == boxes["crop"]["height"] == 288
        assert boxes["whole"]["width"] / boxes["whole"]["height"] == pytest.approx(16 / 9, abs=0.02)
        beside = boxes["whole"]["x"] + boxes["whole"]["width"] <= boxes["crop"]["x"]
        assert beside == (width == 1280)
        assert "1600×900 pixels; it is reduced here" in tab.locator(".whole > p").inner_text()
        for kind in boxes:
            pair = tab.locator(f".{kind} .pair")
            for at, rgb in ((0, colours["result"]), (100, colours["input, enlarged"])):
                pair.locator("input").evaluate(
                    "(s, at) => { s.value = at; s.dispatchEvent(new Event('input')); }", at
                )
                shot = Image.open(io.BytesIO(pair.screenshot())).convert("RGB")
                assert np.abs(np.subtract(shot.getpixel((60, 30)), rgb)).max() < 6
            assert not pair.locator("xpath=..").locator("select").first.is_visible()
        tab.locator(".whole .zoom").last.click()
        assert tab.locator("#enlarged-name").inner_text() == "a.png, whole, result"


def test_what_is_wider_than_the_page_says_so(browser, shown):
    for width in WIDTHS:
        with opened(browser, shown, width) as tab:
            for wide in tab.locator(".wide").all():
                over = wide.evaluate("w => w.clientWidth > 0 && w.scrollWidth > w.clientWidth + 1")
                hint = wide.evaluate("w => !w.previousElementSibling.hidden")
                assert hint == over


def test_comparisons_in_words_are_folded(browser, shown):
    with opened(browser, shown) as tab:
        assert not tab.locator("ul.sentences").first.is_visible()
        tab.locator("details.verdicts summary").first.click()
        assert tab.locator("ul.sentences li").first.is_visible()
