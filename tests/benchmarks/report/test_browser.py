"""The page in a real Chromium, opened from disk: by keyboard, at three widths, with hostile prompts, errors counted."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from nbench.benchmarks.metrics.catalogue import ROW_FIGURES
from nbench.benchmarks.report.inputs import gather
from nbench.benchmarks.report.page import make_page, write_page
from nbench.benchmarks.results.leaderboard import leaderboard
from nbench.benchmarks.results.result_file import read_result, write_result
from nbench.shards.reader import Bench

from ...small_bench import CANDIDATES, FAILED, STEPS
from .conftest import HOSTILE, MODEL, safe

pytestmark = pytest.mark.slow

AXE = Path(str(files("axe_core_python"))) / "axe.min.js"
UNKNOWN = "\u2013"
INTRUDER = """
addEventListener("securitypolicyviolation", (event) => arguments[0](event.violatedDirective));
const script = document.createElement("script");
script.textContent = "window.hacked = 5";
document.body.append(script);
"""


LOADED = """
const image = new Image();
image.onload = () => arguments[1]([image.naturalWidth, image.naturalHeight]);
image.onerror = () => arguments[1]("not an image");
image.src = "data:image/svg+xml," + encodeURIComponent(arguments[0]);
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        stop = pytest.fail if "CI" in os.environ else pytest.skip
        stop("these tests need Chromium: apt-get install chromium chromium-driver (as .ci/run does)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("profile")
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as started:
        yield started


@pytest.fixture(scope="module")
def page(results: Path, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page with hostile names."""
    return write_page(tmp_path_factory.mktemp("page"), make_page(gather([results]), bench, 40)).as_uri()


@pytest.fixture
def opened(chromium: webdriver.Chrome, page: str) -> Iterator[webdriver.Chrome]:
    """The page, drawn; a console error or a failed script fails the test that made it."""
    resize(chromium, 1280)
    chromium.get(page)
    awaited(chromium, "return document.querySelector('#candidates canvas')")
    yield chromium
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return window.hacked ?? null") is None


def resize(chromium: webdriver.Chrome, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def awaited(chromium: webdriver.Chrome, script: str, *arguments: str) -> None:
    """Wait until `script` returns something true."""
    WebDriverWait(chromium, 20).until(lambda browser: browser.execute_script(script, *arguments))


def find(chromium: webdriver.Chrome, selector: str) -> WebElement:
    return chromium.find_element(By.CSS_SELECTOR, selector)


def texts(chromium: webdriver.Chrome, selector: str) -> list[str]:
    return [node.text for node in chromium.find_elements(By.CSS_SELECTOR, selector)]


def test_nothing_comes_from_outside_and_nothing_may(opened: webdriver.Chrome) -> None:
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    refused = opened.execute_async_script(INTRUDER)
    assert refused.startswith("script-src")
    assert [entry["level"] for entry in opened.get_log("browser")] == ["SEVERE"]  # the refusal, and read now


def column(chromium: webdriver.Chrome, label: str) -> list[str]:
    cells = texts(chromium, f'#leaderboard tbody td[data-label="{label}"]')
    return [text.split("\n")[0] for text in cells]


def test_the_leaderboard_begins_with_the_gain(opened: webdriver.Chrome, results: Path) -> None:
    headings = texts(opened, "#leaderboard thead button")
    assert headings == ["model", "recovered gain", "Spearman", "Best-of-N", "retention", "steps"]
    assert find(opened, "#leaderboard th[aria-sort=descending]").text.startswith("recovered gain")
    gains = column(opened, "recovered gain")
    assert gains == sorted(gains, key=float, reverse=True)
    find(opened, "#all-figures").send_keys(Keys.SPACE)
    figures = {figure.heading for figure in ROW_FIGURES.values()}
    assert {"scored", "Kendall", "top-1"} <= set(texts(opened, "#leaderboard thead button")) & figures


def test_the_leaderboard_sorts_by_keyboard(opened: webdriver.Chrome) -> None:
    heading = find(opened, "#leaderboard button[data-column=spearman]")
    heading.send_keys(Keys.ENTER)
    assert find(opened, "#leaderboard th[aria-sort]").get_attribute("aria-sort") == "descending"
    scores = [value for value in column(opened, "Spearman") if value != UNKNOWN]
    assert scores == sorted(scores, key=float, reverse=True)
    assert len(scores) == 2
    find(opened, "#leaderboard button[data-column=spearman]").send_keys(Keys.ENTER)
    assert find(opened, "#leaderboard th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert [value for value in column(opened, "Spearman") if value != UNKNOWN] == scores[::-1]
    assert column(opened, "Spearman")[-3:] == [UNKNOWN] * 3  # yardsticks have none, which comes last either way
    assert opened.switch_to.active_element.get_attribute("data-column") == "spearman"
    find(opened, "#leaderboard button[data-column=model]").send_keys(Keys.SPACE)
    assert find(opened, "#leaderboard th[aria-sort]").text.startswith("model")


def test_the_leaderboard_has_the_results_figures_at_any_position(opened: webdriver.Chrome, results: Path) -> None:
    for position in (0, STEPS):
        Select(find(opened, "#position")).select_by_value(str(position))
        assert texts(opened, "#leaderboard caption") == [f"Position {position} against clip"]
        for row in read_result(results / "random.json").rows:
            if row.position == position:
                models = texts(opened, "#leaderboard tbody th")
                assert column(opened, "Spearman")[models.index("random")] == f"{row.spearman:.3f}"


def test_it_names_models_that_lack_positions(opened: webdriver.Chrome, results: Path, tmp_path: Path) -> None:
    assert not find(opened, "#lacking").is_displayed()
    shutil.copytree(results, tmp_path / "some")
    path = tmp_path / "some" / "random.json"
    result = read_result(path)
    write_result(path, result.model_copy(update={"rows": tuple(row for row in result.rows if row.position)}))
    opened.get(write_page(tmp_path / "page", make_page(gather([tmp_path / "some"]), None, 0)).as_uri())
    assert find(opened, "#lacking").text == f"Scored at some positions only: random at 5, {STEPS}."
    Select(find(opened, "#position")).select_by_value("0")
    assert texts(opened, "#leaderboard caption") == ["Position 0 against clip; not scored there: random"]


def test_the_leaderboard_has_the_yardsticks_of_nbench_leaderboard(opened: webdriver.Chrome, results: Path) -> None:
    find(opened, "#all-figures").click()
    lines = {line.model[1:-1]: line.figures for line in leaderboard(results).lines if line.yardstick}
    assert set(lines) == {"random pick", "final-image selection by clip", "oracle"}
    for row in opened.find_elements(By.CSS_SELECTOR, "#leaderboard tr.yardstick"):
        cells = row.find_elements(By.CSS_SELECTOR, "td:not(.none)")
        shown = {cell.get_attribute("data-label"): cell.text.split("\n")[0] for cell in cells}
        name = row.find_element(By.CSS_SELECTOR, "th").text
        for metric, value in lines.pop(name).items():
            assert shown[ROW_FIGURES[metric].heading] == (f"{value:.0f}" if metric == "cost_steps" else f"{value:z.3f}")
    assert lines == {}


def test_the_slider_moves_by_keyboard_and_the_picks_with_it(opened: webdriver.Chrome, results: Path) -> None:
    Select(find(opened, "#prompt")).select_by_index(FAILED[0])
    awaited(opened, "return document.getElementById('candidates').textContent.includes('failed')")
    slider = find(opened, "#slider")
    slider.send_keys(Keys.END)
    assert slider.get_attribute("aria-valuetext") == f"position {STEPS} of {STEPS}"
    # brightness of the finished latent is the reference itself, so both pick the same candidate
    picks = find(opened, "#picks").text
    chosen = picks.partition(f"{MODEL} picks ")[2][0]
    assert picks.endswith(f"clip of the final images picks {chosen}.")
    before = pixels(opened)
    slider.send_keys(Keys.ARROW_LEFT)
    assert slider.get_attribute("aria-valuetext") == f"position 5 of {STEPS}"
    slider.send_keys(Keys.HOME)
    assert find(opened, "#slider-value").text == f"0 of {STEPS}"
    assert pixels(opened) != before
    assert texts(opened, "#scores tbody th") == [MODEL, "random", "reference clip (final image)"]
    assert len(opened.find_elements(By.CSS_SELECTOR, "#candidates canvas")) == 2 * (CANDIDATES - 1)
    ranks = sorted(
        text.split("rank ")[1] for text in texts(opened, "#scores tbody tr:first-child td") if "rank" in text
    )
    assert ranks == ["1", "2", "3"]


def pixels(chromium: webdriver.Chrome) -> Any:
    script = "return [...document.querySelectorAll('#candidates canvas')].map((canvas) => canvas.toDataURL())"
    return chromium.execute_script(script)


def test_hostile_prompts_and_names_stay_text(opened: webdriver.Chrome) -> None:
    shown = "return document.getElementById('prompt-text').textContent === arguments[0]"
    for number, text in enumerate(HOSTILE):
        awaited(opened, shown, safe(text))
        assert find(opened, "#prompt").get_property("value") == str(number)
        find(opened, "#next").send_keys(Keys.ENTER)
    Select(find(opened, "#skill-model")).select_by_value(MODEL)
    assert MODEL in texts(opened, "#leaderboard tbody th")
    assert opened.find_elements(By.CSS_SELECTOR, "img, body script[src], b") == []


def test_every_plot_has_a_name_and_its_figures_as_a_table(opened: webdriver.Chrome) -> None:
    Select(find(opened, "#skill-model")).select_by_value(MODEL)
    for name in ("gain", "agreement", "skills", "separation"):
        assert find(opened, f"#{name} svg[role=img]").get_attribute("aria-label")
        find(opened, f"#{name} summary").send_keys(Keys.ENTER)
        awaited(opened, "return document.querySelector(arguments[0])", f"#{name} tbody tr")
    assert len(texts(opened, "#skills tbody tr")) == 6
    assert len(texts(opened, "#separation tbody tr")) == 2
    assert "0.700 [0.600, 0.800]" in find(opened, "#separation tbody tr").text


def test_a_models_curves_are_hidden_and_shown_by_keyboard(opened: webdriver.Chrome) -> None:
    count = "return document.querySelectorAll('#gain figure > svg path, #agreement figure > svg path').length"
    before = opened.execute_script(count)
    find(opened, "#gain-1").send_keys(Keys.SPACE)
    assert opened.execute_script(count) < before
    assert opened.switch_to.active_element.get_attribute("id") == "gain-1"
    assert not find(opened, "#agreement-1").is_selected()
    find(opened, "#gain-1").send_keys(Keys.SPACE)
    assert opened.execute_script(count) == before


@pytest.fixture
def saved(opened: webdriver.Chrome, tmp_path: Path) -> Callable[[str, str], Path]:
    """Presses a button below a plot, and waits for the file it saves."""
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})

    def press(plot: str, kind: str) -> Path:
        buttons = opened.find_elements(By.CSS_SELECTOR, f"#{plot} .downloads button")
        next(button for button in buttons if button.text == kind).send_keys(Keys.ENTER)
        file = tmp_path / f"small-{plot}.{kind.lower()}"
        WebDriverWait(opened, 20).until(lambda _: file.exists())
        return file

    return press


def test_a_plot_is_saved_as_csv_with_its_figures(saved: Callable[[str, str], Path], results: Path) -> None:
    with saved("gain", "CSV").open(newline="", encoding="utf-8") as file:
        lines = {(line["model"], int(line["position"])): line for line in csv.DictReader(file)}
    expected = [row for name in ("brightness", "random") for row in read_result(results / f"{name}.json").rows]
    assert len(lines) == len(expected) == 6
    for row in expected:
        line = lines[row.model, row.position]
        assert int(line["cost_steps"]) == row.cost_steps
        assert float(line["recovered_gain"]) == pytest.approx(row.recovered_gain, rel=1e-4)
        assert row.recovered_gain_ci is not None
        ends = (float(line["recovered_gain_low"]), float(line["recovered_gain_high"]))
        assert ends == pytest.approx(row.recovered_gain_ci, rel=1e-4)


def test_a_plot_is_saved_as_svg_with_its_legend(
    opened: webdriver.Chrome, saved: Callable[[str, str], Path], tmp_path: Path
) -> None:
    Select(find(opened, "#skill-model")).select_by_value(MODEL)
    for name, label in (("agreement", "Spearman"), ("skills", "counting (basic, 9)"), ("separation", "order")):
        file = saved(name, "SVG")
        root = ElementTree.parse(file).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        shown = {"".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")}
        assert any(label in text for text in shown)
        assert name == "skills" or MODEL in shown
    sizes = opened.execute_async_script(LOADED, file.read_text("utf-8"))  # as an image, which needs no other file
    assert sizes == [float(root.attrib["width"]), float(root.attrib["height"])]


def test_pictures_open_large_by_keyboard(opened: webdriver.Chrome) -> None:
    find(opened, "#candidates .tile").send_keys(Keys.ENTER)
    assert find(opened, "#zoom-title").text == f"Candidate 0, position 5 of {STEPS}"
    large = find(opened, "#zoom-pictures canvas").size["width"]
    assert large > 2 * find(opened, "#candidates canvas").size["width"]
    opened.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert find(opened, "#zoom-title").text == f"Candidate 1, position {STEPS} of {STEPS}"
    assert find(opened, "#slider").get_attribute("aria-valuetext") == f"position {STEPS} of {STEPS}"
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not find(opened, "#zoom").is_displayed()


SKILLS = "return [...document.querySelectorAll('#skills svg[role=img] text')].map((text) => text.textContent)"
CUT = """
const inside = (node) => node.getBoundingClientRect().right <= innerWidth + 1;
return [...document.querySelectorAll('th, td, svg[role=img], button, canvas')].filter((node) => !inside(node)).length;
"""


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_column_is_cut_and_counts_stay(opened: webdriver.Chrome, page: str, width: int) -> None:
    resize(opened, width)
    opened.get(page)
    awaited(opened, "return document.querySelector('#candidates canvas')")
    Select(find(opened, "#skill-model")).select_by_value(MODEL)
    find(opened, "#all-figures").send_keys(Keys.SPACE)
    for name in ("gain", "skills"):
        find(opened, f"#{name} summary").send_keys(Keys.ENTER)
        awaited(opened, "return document.querySelector(arguments[0])", f"#{name} tbody tr")
    assert opened.execute_script(CUT) == 0
    assert "scored" in {node.get_attribute("data-label") for node in opened.find_elements(By.CSS_SELECTOR, "td")}
    assert ("counting (9)" if width == 390 else "counting (basic, 9)") in opened.execute_script(SKILLS)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_it_fits_the_screen_and_axe_finds_nothing(opened: webdriver.Chrome, page: str, width: int, scheme: str) -> None:
    resize(opened, width, scheme)
    opened.get(page)
    awaited(opened, "return document.querySelector('#candidates canvas')")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text()})  # the page's policy would refuse it
    violations = opened.execute_async_script("axe.run().then((result) => arguments[0](result.violations))")
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in violations] == []
