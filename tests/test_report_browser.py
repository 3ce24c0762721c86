"""The report page in headless Chromium.

Skipped where there is no Chromium and chromedriver.
"""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser, needs_browser, running

from maqd_snn import fold
from maqd_snn.baselines import baselines, break_even
from maqd_snn.pricing import price_all
from maqd_snn.reporting.html import html_report
from maqd_snn.reporting.samples import sample_records
from maqd_snn.simulation import simulate

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("profile")) as session:
        yield session


def make_page(make_model: Any, name: str = "page", classes: int = 5) -> str:
    """The page of a small untrained network on random images: every section that needs no training."""
    torch.manual_seed(0)
    net = fold(make_model("vgg", 4, 3))
    codes, labels = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8), torch.arange(24) % classes
    simulation = simulate(net, [(codes, labels)])
    priced = price_all(simulation)
    report = {
        "recipe": {"name": name},
        "dataset": {"classes": [f"class {index}" for index in range(classes)]},
        "accuracy": {"test": simulation.accuracy},
        "simulation": simulation.to_dict(),
        "energy": {key: entry.to_dict() for key, entry in priced.items()},
        "baselines": [vars(baseline) for baseline in baselines(simulation)],
        "break_even": [{**vars(entry), "pays": entry.pays} for entry in break_even(simulation, priced.values())],
        "samples": sample_records(net, codes, labels),
    }
    return html_report(json.loads(json.dumps(report)))


@pytest.fixture(scope="module")
def opened(browser: Browser, make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(make_page(make_model), encoding="utf-8")
    browser.send("POST", "/url", {"url": "about:blank"})  # away from the browser's own first page
    browser.log("performance")
    browser.log("browser")
    browser.open(path)
    return browser


def test_the_console_is_silent_and_nothing_is_fetched(opened: Browser) -> None:
    assert opened.run("return document.querySelector('h1').textContent") == "page"
    assert [entry["message"] for entry in opened.log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in opened.log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [e["request"]["url"] for e in sent if not e.get("documentURL", "").startswith("chrome:")]
    assert any(url.startswith("file:") for url in urls)
    assert [url for url in urls if not url.startswith(("file:", "data:image/png;base64,"))] == []
    # The same two checks see what they look for.
    opened.run("console.error('seen'); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; return 0")
    time.sleep(0.5)
    messages = [entry["message"] for entry in opened.log("browser")]
    assert any("seen" in message for message in messages)
    assert any("Content Security Policy" in message and "127.0.0.1:9" in message for message in messages)


def test_pictures_are_decoded(opened: Browser) -> None:
    sizes = opened.run("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(sizes) >= 12
    assert all(complete and width > 0 for complete, width in sizes)


SORTED = """
const tables = [...document.querySelectorAll('table')];
const table = tables.find(t => t.caption && t.caption.textContent.includes(arguments[0]));
const head = [...table.tHead.rows[0].cells].find(c => c.textContent.trim() === arguments[1]);
const at = [...table.tHead.rows[0].cells].indexOf(head);
for (let press = 0; press < arguments[2]; press++) head.querySelector('button').click();
return {sort: head.getAttribute('aria-sort'), rows: [...table.tBodies[0].rows].map(r => r.cells[0].textContent.trim()),
        values: [...table.tBodies[0].rows].map(r => r.cells[at] ? r.cells[at].dataset.v ?? null : null)};
"""


def test_tables_sort(opened: Browser) -> None:
    title, column = "The same network in other forms", "Energy"
    before = opened.run(SORTED, title, column, 0)
    down, up = opened.run(SORTED, title, column, 1), opened.run(SORTED, title, column, 1)
    again = opened.run(SORTED, title, column, 1)
    values = [float(value) for value in before["values"]]
    assert len(values) == 8
    assert values != sorted(values, reverse=True)
    assert (down["sort"], up["sort"], again["sort"]) == ("descending", "ascending", None)
    assert [float(value) for value in down["values"]] == sorted(values, reverse=True)
    assert [float(value) for value in up["values"]] == sorted(values)
    assert again == before
    names = opened.run(SORTED, title, "Baseline", 2)
    assert names["rows"] == sorted(names["rows"])
    opened.run(SORTED, title, "Baseline", 1)


def test_rows_without_a_value_stay_at_the_end(opened: Browser) -> None:
    for presses in (1, 1):  # descending, then ascending
        found = opened.run(SORTED, "Counts per image", "SynOps", presses)
        shown = [value for value in found["values"][:3] if value]
        assert len(shown) == 3
        assert all(name.startswith(("conv", "classifier", "fc")) for name in found["rows"][:3])
    opened.run(SORTED, "Counts per image", "SynOps", 1)


def test_every_table_that_can_be_sorted_has_buttons(opened: Browser) -> None:
    tables, heads, buttons = opened.run(
        "const t = [...document.querySelectorAll('table.sortable')];"
        "return [t.length, t.flatMap(x => [...x.tHead.rows[0].cells]).length, "
        "document.querySelectorAll('table.sortable thead button').length]"
    )
    assert tables >= 7
    assert heads == buttons > 40


BROWSE = """
const shown = [...document.querySelectorAll('.one')].map(a => getComputedStyle(a).display !== 'none');
return [shown.filter(Boolean).length, shown.indexOf(true),
        [...document.querySelectorAll('.pick')].findIndex(p => p.getAttribute('aria-pressed') === 'true')];
"""


def test_the_sample_browser(opened: Browser) -> None:
    number = opened.run("return document.querySelectorAll('.one').length")
    assert number == 6
    assert opened.run(BROWSE) == [1, 0, 0]
    opened.run("document.querySelectorAll('.pick')[2].click()")
    assert opened.run(BROWSE) == [1, 2, 2]
    opened.run("document.querySelector('.next').click()")
    assert opened.run(BROWSE) == [1, 3, 3]
    for _ in range(4):
        opened.run("document.querySelector('.previous').click()")
    assert opened.run(BROWSE) == [1, 5, 5]
    key = "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true, cancelable: true})"
    opened.run(f"document.querySelectorAll('.pick')[5].dispatchEvent({key})")
    assert opened.run(BROWSE) == [1, 0, 0]
    words = opened.run("return document.querySelector('.one:not([hidden])').innerText")
    assert "Class scores" in words
    assert "spike1" in words


def test_without_the_script_all_samples_are_there(browser: Browser, make_model: Any, tmp_path: Path) -> None:
    page = make_page(make_model)
    start, end = page.index("<script>"), page.index("</script>")
    path = tmp_path / "plain.html"
    path.write_text(page[:start] + page[end + len("</script>") :], encoding="utf-8")
    browser.open(path)
    assert browser.run(BROWSE)[0] == 6


def test_a_changed_script_does_not_run(browser: Browser, make_model: Any, tmp_path: Path) -> None:
    page = make_page(make_model)
    path = tmp_path / "changed.html"
    path.write_text(page.replace('"use strict";', '"use strict"; window.changed = 1;'), encoding="utf-8")
    browser.open(path)
    assert browser.run("return window.changed") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.log("browser"))


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(browser: Browser, make_model: Any, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(make_page(make_model, name="a-very-long-name-" * 4), encoding="utf-8")
    browser.resize(width, 900)
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(path)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in background[4:-1].split(",")) > 3 * 128
    assert light == (scheme == "light")
    image = base64.b64decode(browser.send("GET", "/screenshot"))
    assert image.startswith(b"\x89PNG")
    assert len(image) > 20_000


def test_it_prints(browser: Browser, make_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(make_page(make_model), encoding="utf-8")
    browser.open(path)
    pdf = base64.b64decode(browser.send("POST", "/print", {}))
    assert pdf.startswith(b"%PDF")
    assert 4 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type/Page/") <= 60
