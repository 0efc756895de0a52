"""The page in a real browser: a click makes two pictures, nothing leaves this machine, and every failure is words."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
QUIET = ("gpu", "quic", "background-networking", "component-update", "sync")
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
PIXELS = """([image, holds]) => {
    const from = document.querySelector(image), to = document.createElement('canvas');
    to.width = to.height = 64; const pen = to.getContext('2d'); pen.drawImage(from, 0, 0, 64, 64);
    const data = pen.getImageData(0, 0, 64, 64).data, test = new Function('data', 'i', 'return ' + holds);
    let count = 0; for (let i = 0; i < data.length; i += 4) count += test(data, i); return count; }"""
"""Counts the pixels of a picture, at 64 x 64, for which a condition holds."""
LONG = 120_000
"""Milliseconds that a busy machine may take for two pictures."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    process: subprocess.Popen[str]
    url: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`stagevar ui` with the shipped model and one of another family, until the tests are done."""
    folder = tmp_path_factory.mktemp("var")
    save_model(tiny("var"), folder)
    command = [sys.executable, "-m", "stagevar", "ui", "--port", "0", "-m", "scenes", "-m", str(folder)]
    pictures = str(tmp_path_factory.mktemp("pictures"))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": pictures, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield Site(process, found[0])
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not any(path.is_file() for path in Path(pictures).rglob("*"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("there is no chromium to click with")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(site: Site, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page in a fresh context. At its end nothing has been asked of another server, and no script failed."""
    contexts, asked, failed = [], list[str](), list[str]()

    def open_page(width: int = 1280, **settings: Any) -> Page:
        contexts.append(context := browser.new_context(viewport={"width": width, "height": 900}, **settings))
        context.set_default_timeout(LONG)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(site.url)
        page.wait_for_selector("#draw")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert asked and not [url for url in asked if not url.startswith((site.url, "data:", "blob:"))]
    assert not failed


def finished(page: Page) -> str:
    page.wait_for_selector("#verdict .headline")
    page.wait_for_selector("#plan li")
    return page.inner_text("#verdict")


def failure(page: Page) -> str:
    page.wait_for_selector("#verdict .error")
    return page.inner_text("#verdict")


def choose(page: Page, field: str, text: str) -> None:
    page.fill(f"{field} input", text)
    page.keyboard.press("Enter")


def test_a_click_draws_both_pictures_and_the_table(opened: Callable[..., Page]) -> None:
    page = opened()
    page.fill("#prompt textarea", "three green stars")
    page.click("#draw")
    page.wait_for_selector("#scales img")  # the first scales are there while later ones run
    said = finished(page)
    assert (
        re.search(r"[\d.]+x faster, [\d.]+x fewer operations, SSIM 0\.\d+", said) and "scenes, 64 x 64, seed 1" in said
    )
    sides = page.evaluate("[...document.querySelectorAll('#front img')].map(each => each.naturalWidth)")
    assert sides == [64] * 4
    assert page.locator("#scales tr").count() == 7 and page.locator("#scales img").count() == 3 * 10
    green = page.evaluate(PIXELS, ["#front img", "data[i + 1] > 120 && data[i] < 110"])
    assert green > 60  # the stars that were asked for


def test_the_keyboard_draws_and_moves_the_divider(opened: Callable[..., Page]) -> None:
    page = opened()
    page.focus("#prompt textarea")
    page.keyboard.press("Enter")
    finished(page)
    clip = "getComputedStyle(document.querySelectorAll('.compared img')[1]).clipPath"
    assert "50%" in page.evaluate(clip)
    page.focus(".compared input")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert "54%" in page.evaluate(clip)
    page.focus("#prompt textarea")
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"draw", "stop", "new-seed", "scales"} <= set(reached)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_shows_everything_without_scrolling_sideways(opened: Callable[..., Page], scheme: str) -> None:
    page = opened(390, color_scheme=scheme)
    page.click("#draw")
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in ("#verdict", ".compared img", ".frame img", "#scales .scales", "#plan li"):
        box = page.locator(part).first.bounding_box()
        assert box is not None and box["width"] > 100 and box["height"] > 20, part
    ink = page.evaluate("getComputedStyle(document.querySelector('#plan li')).color")
    lightness = sum(map(int, re.findall(r"\d+", ink)[:3])) / 3
    assert lightness > 180 if scheme == "dark" else lightness < 80


def test_numbers_of_the_table_stay_in_their_columns(opened: Callable[..., Page]) -> None:
    page = opened(390)
    page.click("#draw")
    finished(page)
    wide = page.evaluate(
        "[...document.querySelectorAll('#scales td')].filter(each => each.scrollWidth > each.clientWidth).length"
    )
    assert wide == 0


def test_every_failure_is_a_sentence_and_the_page_goes_on(opened: Callable[..., Page]) -> None:
    page = opened()
    page.fill("#prompt textarea", "a purple elephant")
    page.click("#draw")
    assert "elephant" in failure(page)
    page.fill("#prompt textarea", "   ")
    page.click("#draw")
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('the prompt is empty')")
    page.fill("#prompt textarea", "three green stars")
    page.fill("#seed textarea", "-4")
    page.click("#draw")
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('seed must lie between 0')")
    page.fill("#seed textarea", "")
    choose(page, "#accelerator", "stagevar_paper(profile='/etc/passwd')")
    page.click("#draw")
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('profile names a file')")
    choose(page, "#accelerator", "drop_last(2)")
    page.click("#draw")
    assert "drop_last(n=2)" in finished(page)
    assert "not run, no codes are added" in page.inner_text("#plan")
    assert page.input_value("#seed textarea").isdigit()  # the fresh seed, to draw it again


def test_stop_ends_the_run_at_the_next_scale(opened: Callable[..., Page]) -> None:
    page = opened()
    page.click("#draw")
    page.wait_for_selector("#scales img")
    page.click("#stop")
    assert re.fullmatch(r"cancelled before scale \d+ of 10", failure(page))
    page.click("#draw")
    finished(page)


def test_another_model_brings_its_sizes_and_prompts(opened: Callable[..., Page]) -> None:
    page = opened()
    page.click("#model input")
    page.get_by_role("option").nth(1).click()
    page.wait_for_function(
        "document.querySelector('#prompt textarea').value != 'a red circle to the left of a blue square'"
    )
    page.click("#draw")
    assert "var" in finished(page)


def test_a_picture_is_painted_on_and_drawn_anew(opened: Callable[..., Page], tmp_path: Path) -> None:
    page = opened()
    page.get_by_role("tab", name="Edit").click()
    page.fill("#edit-prompt textarea", "a red circle")
    page.click("#edit")
    page.wait_for_function("document.querySelector('#edit-said').innerText.includes('there is no picture')")
    Image.new("RGB", (300, 300), (40, 40, 40)).save(tmp_path / "dark.png")
    page.set_input_files("#painted input[type=file]", tmp_path / "dark.png")
    page.wait_for_timeout(1000)  # the canvas takes the picture
    box = page.locator("#painted canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y - 60)
    page.mouse.down()
    for line in range(25):
        page.mouse.move(x + 60 * (-1) ** line, y - 60 + 5 * line, steps=4)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.click("#edit")
    page.wait_for_function("document.querySelector('#edit-said').innerText.includes('Seed 1.')")
    red = page.evaluate(PIXELS, ["#edited img", "data[i] > 120 && data[i + 1] < 90"])
    dark = page.evaluate(PIXELS, ["#edited img", "data[i] < 70 && data[i + 1] < 70 && data[i + 2] < 70"])
    assert red > 40 and dark > 1000  # the circle where it was painted, and what lay around it
    page.click("#edit")
    page.wait_for_function("/Waiting for|Scale [0-9]+ of 10/.test(document.querySelector('#edit-said').innerText)")
    page.click("#edit-stop")
    page.wait_for_function("document.querySelector('#edit-said').innerText.includes('cancelled before')")


def test_a_page_that_is_closed_while_it_draws_holds_up_no_other(opened: Callable[..., Page]) -> None:
    left, page = opened(), opened()
    left.click("#draw")
    left.wait_for_selector("#scales img")
    left.close()
    page.click("#draw")
    finished(page)


def test_the_site_takes_no_large_files_and_shows_none_of_this_machine(site: Site) -> None:
    import httpx

    with httpx.Client(base_url=site.url, trust_env=False) as client:
        upload = client.post("gradio_api/upload", files={"files": ("a.png", bytes(2**26 + 1))})
        assert upload.status_code == 413
        for path in ("/etc/passwd", str(Path(__file__)), "../../../etc/passwd"):
            assert client.get(f"gradio_api/file={path}").status_code in (403, 404)
        assert client.get("openapi.json").status_code == 404


def test_a_port_that_is_taken_is_an_error(site: Site) -> None:
    port = site.url.rsplit(":", 1)[1].strip("/")
    command = [sys.executable, "-m", "stagevar", "ui", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot listen at 127.0.0.1, port ")


def test_the_application_of_the_documents_has_the_page_at_its_path() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "page.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    code += (
        "from stagevar.ui.page import blocks\n"
        "assert blocks(Pipeline.from_pretrained('scenes')).analytics_enabled is False\n"
        "from starlette.testclient import TestClient\n"
        "with TestClient(app) as client:\n"
        "    answer = client.get('/page/')\n"
        "    assert answer.status_code == 200 and 'stagevar' in answer.text, answer.status_code\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
