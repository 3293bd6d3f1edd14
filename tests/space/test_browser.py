"""The Space in a real browser, as a visitor uses it; LLM_MDE_SCREENSHOTS names a folder for pictures of it."""

import inspect
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm_mde.processing import read_depth_png
from llm_mde.processing.point_clouds import read_ply
from tests.space.conftest import SPACE, make_photograph

webdriver = pytest.importorskip("selenium.webdriver", reason="a browser is driven with selenium")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium or chromedriver is not installed"),
]
DESKTOP, PHONE = 1280, 390
SUFFIXES = (".png", ".npy", ".glb", ".ply")  # a download has another one until it is complete
TOAST = "[data-testid=toast-body]"
PATIENCE = 120  # seconds until a condition counts as failed; nothing waits that long

# Where the pixels of a picture are drawn inside its element: x, y, width, height in the window.
CONTENT_BOX = """
const image = arguments[0], box = image.getBoundingClientRect();
const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
const width = scale * image.naturalWidth, height = scale * image.naturalHeight;
return [box.x + (box.width - width) / 2, box.y + (box.height - height) / 2, width, height];
"""
# The contrast (WCAG 2) of every text in an element with what lies behind it.
CONTRASTS = """
const parse = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const behind = (element) => {
  if (!element) return [255, 255, 255];
  const own = parse(getComputedStyle(element).backgroundColor);
  return own[3] === 0 ? behind(element.parentElement) : over(own, behind(element.parentElement));
};
const light = (colour) => {
  const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrasts = {};
for (const element of arguments[0].querySelectorAll('*')) {
  const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join('').trim();
  if (!text) continue;
  const colour = parse(getComputedStyle(element).color);
  for (let each = element; each; each = each.parentElement) colour[3] *= Number(getComputedStyle(each).opacity);
  const below = behind(element), lights = [light(over(colour, below)), light(below)].sort((a, b) => b - a);
  contrasts[text] = (lights[0] + 0.05) / (lights[1] + 0.05);
}
return contrasts;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    # For WebGL without a graphics card.
    options.add_argument("--enable-unsafe-swiftshader")
    options.add_argument("--use-angle=swiftshader")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page as a visitor sees it."""

    def __init__(self, driver, url: str, downloads: Path, width: int = DESKTOP, theme: str = "light"):
        self.driver, self.width, self.downloads = driver, width, downloads
        downloads.mkdir(exist_ok=True)
        self._resize(900)
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads), "eventsEnabled": True}
        )
        driver.get_log("browser")  # what earlier pages have said
        driver.get(f"{url}?__theme={theme}")
        self.wait(lambda: self.all("#estimate"))

    def wait(self, condition):
        """What the condition gives once it holds; one that meets an element that was just replaced is asked again."""
        passing = [StaleElementReferenceException]
        wait = WebDriverWait(self.driver, PATIENCE, poll_frequency=0.1, ignored_exceptions=passing)
        return wait.until(lambda _: condition())

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        return self.wait(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def click(self, element) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def write(self, box, text: str) -> None:
        """Writes over what a text box holds. A box in a tab that was just opened may still be given its value."""

        def is_written() -> bool:
            if box.get_property("value") != text:
                box.send_keys(Keys.CONTROL + "a" + Keys.NULL, text)
                settled.clear()
            settled.append(box.get_property("value") == text)
            return settled[-8:] == [True] * 8

        settled: list[bool] = []
        self.wait(is_written)

    def tab(self, name: str) -> None:
        self.click(next(each for each in self.all("button[role=tab]") if each.text == name))

    def upload(self, path: Path) -> None:
        self.one("#photograph input[type=file]").send_keys(str(path))
        self.wait(lambda: self.all("#photograph img"))

    def estimate(self, path: Path) -> None:
        self.upload(path)
        self.click(self.one("#estimate"))
        self.wait(lambda: self.all("#legend .bar"))
        self.wait_for_files()

    def wait_for_files(self) -> None:
        self.wait(lambda: "Camera" in self.text("#camera") and self.scene_link())

    def scene_link(self) -> str | None:
        """Of the surface that the 3D view shows."""
        link = "#scene a[data-testid=model3d-download-link]"
        return self.driver.execute_script("return document.querySelector(arguments[0])?.href", link)

    def click_in(self, selector: str, across: float, down: float) -> None:
        """Clicks inside of a picture, at shares of its width and height."""
        image = self.one(f"{selector} img")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        self.wait(lambda: image.get_property("complete") and image.get_property("naturalWidth"))
        boxes: list[list[float]] = []

        def is_at_rest() -> bool:
            boxes.append(self.driver.execute_script(CONTENT_BOX, image))
            return boxes[-3:] == [boxes[-1]] * 3

        self.wait(is_at_rest)
        x, y, width, height = boxes[-1]
        actions = ActionChains(self.driver)
        actions.w3c_actions.pointer_action.move_to_location(round(x + across * width), round(y + down * height))
        actions.click().perform()

    def download(self, selector: str) -> Path:
        for path in self.downloads.iterdir():
            path.unlink()
        self.wait(lambda: self.one(selector).is_enabled())
        self.click(self.one(selector))
        return self.wait(lambda: [path for path in self.downloads.iterdir() if path.suffix in SUFFIXES])[0]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")

    def errors(self) -> list[str]:
        """What the browser's console calls severe, without what is no fault of the page."""
        import gradio

        known = ["WebGPU"]  # a machine without a graphics card has none; Babylon then takes WebGL, and says so
        if tuple(map(int, gradio.__version__.split(".")[:2])) < (6, 31):
            known.append("(reading '0')")  # of thumbnails of examples, which are there nevertheless
        severe = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in severe if not any(each in message for each in known)]

    def screenshot(self, name: str) -> None:
        if folder := os.environ.get("LLM_MDE_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._resize(self.driver.execute_script("return document.documentElement.scrollHeight"))
            loaded = "return [...document.images].every(i => !i.offsetParent || (i.complete && i.naturalWidth > 0))"
            self.wait(lambda: self.driver.execute_script(loaded))
            for canvas in self.all("#scene canvas"):
                self.wait(lambda canvas=canvas: not canvas.is_displayed() or pixels_drawn(canvas) > 500)
            self.driver.save_screenshot(str(Path(folder) / name))
            self._resize(900)

    def _resize(self, height: int) -> None:
        size = {"width": self.width, "height": height, "deviceScaleFactor": 1, "mobile": self.width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture
def open_page(browser, server, tmp_path):
    return lambda **kwargs: Page(browser, server.url, tmp_path / "downloads", **kwargs)


@pytest.fixture
def photograph(tmp_path) -> Path:
    """An example of the Space, else a generated picture."""
    examples = sorted((SPACE / "examples").glob("*.jpg"))
    if examples:
        return examples[0]
    Image.fromarray(make_photograph(height=300, width=400)).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def pixels_drawn(canvas) -> int:
    """Pixels of a canvas that differ from its corner."""
    shown = np.array(Image.open(io.BytesIO(canvas.screenshot_as_png)).convert("RGB")).astype(int)
    return int((np.abs(shown - shown[-1, -1]).max(axis=-1) > 20).sum())


@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_from_a_photograph_to_metres_in_hand(open_page, photograph, width):
    page = open_page(width=width)
    assert page.overflow() <= 0
    page.estimate(photograph)
    assert len(re.findall(r"\d\.\d\d m", page.text("#facts"))) == 3 and " ms" in page.text("#facts")

    # 3D: drawn, and the surface that is shown is the one to take away.
    canvas = page.one("#scene canvas")
    page.wait(lambda: pixels_drawn(canvas) > 500)
    assert page.overflow() <= 0
    page.screenshot({DESKTOP: "space_desktop.png", PHONE: "space_phone.png"}[width])
    glb, ply = page.download("#glb"), None
    assert glb.read_bytes()[:4] == b"glTF"
    ply = page.download("#ply")
    points, colours = read_ply(ply)

    # Files, in metres.
    page.tab("Files")
    depth = np.load(page.download("#npy"))
    np.testing.assert_allclose(read_depth_png(page.download("#png")), depth, atol=0.0005)
    with Image.open(photograph) as image:
        assert depth.shape == image.size[::-1] and depth.dtype == np.float32
    assert depth.min() - 1e-3 <= points[:, 2].min() and points[:, 2].max() <= depth.max() + 1e-3
    assert len(points) == len(colours)

    # A click is answered with the metres of the file.
    page.tab("Measure")
    height, columns = depth.shape[0], depth.shape[1]
    readings = []
    for across, down in ((0.25, 0.4), (0.7, 0.8)):
        page.click_in("#picture", across, down)
        page.wait(lambda: f"Point {len(readings) + 1}" in page.text("#reading"))
        found = re.findall(r"Point \d, column (\d+), row (\d+): ([\d.]+) m", page.text("#reading"))
        column, row, metres = found[-1]
        readings.append((int(column), int(row)))
        assert abs(int(column) - across * columns) < 0.02 * columns and abs(int(row) - down * height) < 0.02 * height
        assert float(metres) == pytest.approx(depth[int(row), int(column)], abs=0.0006)
    assert "Between them" in page.text("#reading") and "assumed" in page.text("#reading")
    assert len(page.all("#region tbody tr")) == 5
    assert page.overflow() <= 0

    # A camera that is given changes the distance: at 60 degrees it was assumed.
    before = re.search(r"line: ([\d.]+) m", page.text("#reading"))[1]
    page.one("#fov textarea, #fov input").send_keys("100")
    page.click(page.one("#use-camera"))
    page.wait(lambda: "100.0" in page.text("#reading"))
    assert "the field of view entered" in page.text("#camera")
    assert float(re.search(r"line: ([\d.]+) m", page.text("#reading"))[1]) > float(before)
    assert page.errors() == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_prompt_is_shown_edited_and_compared(open_page, photograph, width):
    page = open_page(width=width)
    page.estimate(photograph)
    scene = page.scene_link()
    page.tab("Files")
    before = np.load(page.download("#npy"))
    page.tab("Prompt")
    box = page.one("#prompt textarea")
    page.wait(lambda: "Pixel values range from" in box.get_property("value"))
    page.write(box, "A bedroom, at most four metres deep.")
    page.click(page.one("#with-prompt"))
    page.wait(lambda: page.scene_link() not in (None, scene))
    assert box.get_property("value") == "A bedroom, at most four metres deep."
    page.click(page.one("#compare"))
    page.wait(lambda: page.all("#differences tbody tr"))
    for name in ("this", "default", "none"):
        page.one(f"#look-{name} img")
    lefts = [page.one(f"#look-{name}").location["x"] for name in ("this", "default", "none")]
    assert lefts == sorted(set(lefts))  # side by side
    assert len(re.findall(r"\d\.\d{4} m", page.text("#differences"))) == 2
    assert page.overflow() <= 0
    if width == DESKTOP:
        page.screenshot("space_prompt.png")
    # A refusal is one sentence beside all that is shown.
    page.write(box, " ")
    shown = page.one("#slider img").get_attribute("src")
    page.click(page.one("#with-prompt"))
    toast = page.wait(lambda: page.all(TOAST))[0]
    page.wait(lambda: "The prompt is blank" in toast.text)
    page.wait(lambda: not page.all(".pending"))
    assert len(page.all(TOAST)) == 1
    assert "Error" not in page.text("body")
    assert page.one("#slider img").get_attribute("src") == shown and page.one("#legend .bar").is_displayed()
    assert box.get_property("value") == " "
    page.tab("Files")
    after = np.load(page.download("#npy"))
    assert after.shape == before.shape and np.abs(after - before).max() > 0
    # The view that was hidden meanwhile shows the new surface.
    page.tab("3D")
    page.wait(lambda: pixels_drawn(page.one("#scene canvas")) > 500)
    assert page.errors() == []


def test_the_main_path_needs_no_mouse(open_page):
    if not list((SPACE / "examples").glob("*.jpg")):
        pytest.skip("there are no examples, and a browser's file dialog cannot be driven")
    page = open_page()

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def tab_to(selector: str, text: str = "") -> None:
        for _ in range(60):
            press(Keys.TAB)
            focused = page.driver.switch_to.active_element
            if text in focused.text and page.driver.execute_script(
                "return arguments[0].closest(arguments[1]) !== null", focused, selector
            ):
                return
        pytest.fail(f"{selector} {text} cannot be reached with the tab key")

    for control in ("#photograph", "#estimate"):
        tab_to(control)
    tab_to(".gallery-item")  # an example
    press(Keys.ENTER)
    page.wait(lambda: page.all("#legend .bar"))
    page.wait_for_files()
    tab_to("button[role=tab]", "Measure")
    press(Keys.ENTER)
    page.one("#picture img")  # whose pixels are counted
    for control, number in (("#column", "12"), ("#row", "34")):
        tab_to(control)
        page.write(page.driver.switch_to.active_element, number)
    press(Keys.ENTER)
    page.wait(lambda: "column 12, row 34" in page.text("#reading"))
    metres = re.search(r"row 34: ([\d.]+) m", page.text("#reading"))[1]
    tab_to("button[role=tab]", "Files")
    press(Keys.ENTER)
    page.one("#npy")
    tab_to("#npy")
    press(Keys.ENTER)
    (path,) = page.wait(lambda: list(page.downloads.glob("*.npy")))
    assert float(metres) == pytest.approx(np.load(path)[34, 12], abs=0.0006)
    # Of another photograph nothing was read yet.
    page.click(page.all(".gallery-item")[1])
    page.wait(lambda: page.text("#reading") == page.text("#region") == "")
    page.tab("Measure")
    page.wait(lambda: {box.get_property("value") for box in page.all("#column input, #row input")} == {""})


def test_every_control_that_is_seen_has_a_name(open_page, photograph):
    page = open_page()
    page.estimate(photograph)
    for name in ("3D", "Measure", "Prompt", "Files"):
        page.tab(name)
        nameless, num_seen = page.wait(lambda: nameless_controls(page))
        assert num_seen > 10
        assert nameless == []


def nameless_controls(page: Page) -> tuple[list[str], int]:
    """Controls without a name for whoever does not see them, and of how many."""
    import gradio as gr

    seen = [each for each in page.all("input, textarea, select, button, a[href]") if each.is_displayed()]
    # Gradio gives thumbnails of examples no name, and measures the width of tabs with copies that nobody reaches.
    named = [each for each in seen if "gallery-item" not in each.get_attribute("class")]
    named = [each for each in named if not each.find_elements(By.XPATH, "ancestor::*[@aria-hidden='true']")]
    if "alt_text" not in inspect.signature(gr.Image.__init__).parameters:  # Gradio 6.20
        named = [each for each in named if not each.find_elements(By.CSS_SELECTOR, ".image-frame")]
    return [each.get_attribute("outerHTML")[:120] for each in named if not each.accessible_name], len(seen)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(open_page, photograph, theme):
    page = open_page(theme=theme)
    assert page.driver.execute_script("return document.body.classList.contains('dark')") == (theme == "dark")
    page.estimate(photograph)
    page.tab("Measure")
    page.click_in("#picture", 0.5, 0.5)
    page.wait(lambda: page.all("#region tbody tr"))
    page.wait(lambda: not page.all(".pending"))  # while something is computed, Gradio dims what was there
    for selector in ("#legend", "#facts", "#camera", "#reading", "#region"):
        part = page.one(selector)
        # What is new fades in, so that it may take a moment until it has its colour.
        page.wait(lambda part=part: min(page.driver.execute_script(CONTRASTS, part).values(), default=0) >= 4.5)


def test_a_bad_file_is_one_sentence_on_the_page_and_the_next_photograph_works(open_page, photograph, server, tmp_path):
    page, told = open_page(), len(server.log.read_text())
    (tmp_path / "text.jpg").write_text("This is no photograph.")
    page.upload(tmp_path / "text.jpg")
    page.click(page.one("#estimate"))
    toast = page.wait(lambda: page.all(TOAST))[0]
    page.wait(lambda: "not a photograph that can be read" in toast.text)
    assert "Traceback" not in page.driver.page_source and str(tmp_path) not in toast.text
    assert page.all("#legend .bar") == []
    page.click(page.one("#photograph button[aria-label=Clear], #photograph button[aria-label='Remove Image']"))
    page.estimate(photograph)
    assert "Traceback" not in server.log.read_text()[told:]
