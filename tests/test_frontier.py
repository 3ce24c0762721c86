"""The front of a study: who stands in it, the page in a browser, pictures, tables, and one network to pick."""

import base64
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from browser import Browser, needs_browser, running

from maqd_snn import MaqdError, load
from maqd_snn.cli import main
from maqd_snn.reporting import frontier as page
from maqd_snn.sweeps.board import Board
from maqd_snn.sweeps.front import front, fronts, parse_conditions, pick
from maqd_snn.sweeps.rows import DONE, TWIN, Row
from maqd_snn.sweeps.space import Axis, Space, Spec
from maqd_snn.training import get_recipe


def network(number, accuracy, energy, synops=1.0, **more):
    result = {"network": "x", "accuracy": accuracy, "energy": energy, "synops": synops, "bytes": 100, "samples": 10}
    return Row(number, str(number), DONE, {"act_states": 2 + number % 3}, {**result, **more})


ROWS = [
    network(0, 0.80, 10.0, 9.0),
    network(1, 0.90, 1e6, 8.0),
    network(2, 0.85, 2e6, 7.0),  # beaten by 1 in energy
    network(3, 0.95, None, 20.0),  # no published price
    network(4, 0.70, 20.0, 30.0),
    Row(5, TWIN, DONE, {}, {"accuracy": 0.97}),
    Row(6, "6", "failed", {}, {}),
]


def test_a_front_is_what_brute_force_finds():
    for cost in ("energy", "synops", "bytes"):
        known = [row for row in ROWS[:5] if row.result[cost] is not None]
        expected = {
            row.number
            for row in known
            if not any(
                other.result["accuracy"] >= row.result["accuracy"]
                and other.result[cost] <= row.result[cost]
                and (other.result["accuracy"], -other.result[cost]) != (row.result["accuracy"], -row.result[cost])
                for other in known
            )
        }
        assert {row.number for row in front(ROWS, cost)} == expected
    assert fronts(ROWS) == {0: ["energy"], 1: ["energy", "synops"], 2: ["synops"], 3: ["synops", "bytes"]}
    assert front(ROWS, "cores") == []


def test_one_is_picked():
    assert pick(ROWS, parse_conditions("energy<1uJ"), "energy").number == 0  # below, not at
    assert pick(ROWS, parse_conditions("energy<=1uJ"), "energy").number == 1
    assert pick(ROWS, parse_conditions("accuracy>=0.75"), "energy").number == 0  # the cheapest
    assert pick(ROWS, parse_conditions("synops<10,accuracy>80%"), "energy").number == 1
    with pytest.raises(MaqdError, match="no network of the study meets that; it has energy from 10 to 2e\\+06"):
        pick(ROWS, parse_conditions("energy<1pJ"), "energy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("energy", "--pick expects bounds"),
        ("energy<1", "an energy needs a unit"),
        ("energy<1uW", "an energy needs a unit"),
        ("speed<1", "unknown figure to pick by 'speed'"),
        ("synops<1x", "has the unknown unit 'x'"),
        ("accuracy<1k", "has the unknown unit 'k'"),
    ],
)
def test_wrong_bounds_are_refused(text, message):
    with pytest.raises(MaqdError, match=message):
        parse_conditions(text)


def test_units():
    bounds = [c.bound for c in parse_conditions("energy<1pJ,energy<2nJ,energy<1mJ,bytes<3kB,bytes<4k,cores<5")]
    assert bounds == [1.0, 2000.0, 1e9, 3000.0, 4000.0, 5.0]


def values(name="study", networks=None):
    standing = fronts(ROWS)
    rows = [
        {"number": row.number, "point": dict(row.point), **row.result, "dense_low_bit": 5e6, "dense_macs": 50.0,
         "fronts": standing.get(row.number, []), "test": None}
        for row in ROWS[:5]
    ]  # fmt: skip
    return {
        "name": name, "dataset": "digits", "profile": "cmos45-int8", "chip": "", "samples": 10, "library": "maqd-snn",
        "created": "now", "command": "maqd sweep", "twin": 0.97, "counts": {"done": 6, "failed": 1},
        "networks": rows if networks is None else networks,
    }  # fmt: skip


def test_tables():
    hostile = values()
    hostile["networks"][0]["point"] = {"plan": "=1|2_&"}
    lines = list(csv.reader(io.StringIO(page.frontier_csv(hostile))))
    assert lines[0][:4] == ["trial", "plan", "act_states", "accuracy"]
    assert lines[1][1] == "'=1|2_&"
    assert [line[-1] for line in lines[1:]] == ["energy", "energy synops", "synops", "synops bytes", ""]
    assert lines[4][lines[0].index("energy")] == ""
    markdown = page.frontier_markdown(hostile).splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert "| 1: act_states 3 | 90.00 % | 1.00 uJ | 8 | 100 B | - | 5.00 uJ | energy, synops |" in markdown
    latex = page.frontier_latex(hostile)
    assert r"plan =1\textbar{}2\_\&" in latex
    assert r"1.00 $\mu$J" in latex
    assert r"float twin & 97.00 \%" in latex


def test_the_picture_is_drawn(tmp_path):
    page.save_frontier_figure(values(), tmp_path / "a.png", "synops")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MaqdError, match="no network of the study has a figure for cores"):
        page.save_frontier_figure(values(), tmp_path / "a.png", "cores")
    with pytest.raises(MaqdError, match="a figure is written as"):
        page.save_frontier_figure(values(), tmp_path / "a.gif")


def test_names_are_data():
    text = page.frontier_html(values("<script>alert(1)</script>"))
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert page.frontier_html(values()) == page.frontier_html(values())


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("profile")) as session:
        yield session


SHOWN = "return [...document.querySelectorAll('.plane')].filter(p => !p.hidden).map(p => p.dataset.plane)"


@needs_browser
def test_the_page_works_offline(browser, tmp_path):
    path = tmp_path / "frontier.html"
    path.write_text(page.frontier_html(values()), encoding="utf-8")
    browser.send("POST", "/url", {"url": "about:blank"})
    browser.log("performance")
    browser.log("browser")
    browser.open(path)
    assert browser.run(SHOWN) == ["energy"]
    browser.run("document.querySelectorAll('.planes button')[1].click()")
    assert browser.run(SHOWN) == ["synops"]
    said = browser.run(
        "const dot = document.querySelector('.plane:not([hidden]) .dot:last-of-type');"
        "dot.dispatchEvent(new PointerEvent('pointerenter'));"
        "return [dot.dataset.say, document.querySelector('.said').textContent]"
    )
    assert said[0] == said[1]
    assert said[0].startswith("trial ")
    assert "SynOps" in said[0]
    columns = "return [...document.querySelector('table').tBodies[0].rows].map(r => r.cells[3].dataset.v)"
    browser.run("document.querySelectorAll('table thead button')[3].click()")
    assert browser.run(columns) == ["2000000.0", "1000000.0", "10.0", ""]
    assert [entry["message"] for entry in browser.log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [e["request"]["url"] for e in sent if not e.get("documentURL", "").startswith("chrome:")]
    assert path.as_uri() in urls
    assert [url for url in urls if not url.startswith("file:")] == []


@needs_browser
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(browser, tmp_path, width, scheme):
    path = tmp_path / "frontier.html"
    path.write_text(page.frontier_html(values("a-very-long-name-" * 5)), encoding="utf-8")
    browser.resize(width, 900)
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(path)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert base64.b64decode(browser.send("GET", "/screenshot")).startswith(b"\x89PNG")


# With a real study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("study")
    command = ["sweep", "digits", "--plan", "4-M-8-M", "--epochs", "2", "--images", "320", "--chip", "loihi1",
               "--vary", "act_states=2,4", "--out", str(folder), "--quiet", "--threads", "1"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "maqd_snn", *command], check=True, stdout=subprocess.DEVNULL)
    return folder


def test_every_network_of_the_front_is_what_was_noted(study, capsys, tmp_path):
    assert main(["frontier", "digits", "--out", str(study), "--check", "--test", "--json", str(tmp_path / "f")]) == 0
    said = capsys.readouterr().out
    plain = json.loads((tmp_path / "f").read_text())
    standing = [row for row in plain["networks"] if row["fronts"]]
    assert said.count("folded anew: the same network; 0 of") == len(standing) >= 1
    assert said.count("onnx export verified on 100 images; figures: identical") == len(standing)
    assert all(0 <= row["test"] <= 1 and row["cores"] >= 1 for row in standing)
    assert plain["twin"] is not None
    for name in ("frontier.html", "frontier.png", "frontier.csv", "frontier.md", "frontier.tex", "frontier.json"):
        assert (study / name).stat().st_size > 100


def test_a_changed_network_file_is_noticed(study, capsys):
    rows = [row for row in Board(str(study / "journal.log"), "digits").rows() if row.result.get("network")]
    first, second = (study / "trials" / row.folder / "network.h5" for row in rows)
    kept = first.read_bytes(), second.read_bytes()
    try:
        first.write_bytes(kept[1])
        second.write_bytes(kept[0])
        assert main(["frontier", "digits", "--out", str(study), "--check"]) == 1
        assert "ANOTHER NETWORK" in capsys.readouterr().out
        first.unlink()
        second.unlink()
        assert main(["frontier", "digits", "--out", str(study), "--check"]) == 2
        assert "it was trained on" in capsys.readouterr().err
    finally:
        first.write_bytes(kept[0])
        second.write_bytes(kept[1])


def test_a_trial_of_records_has_no_network(study, capsys, tmp_path):
    board = Board(str(study / "journal.log"), "digits")
    Board(str(tmp_path / "journal.log"), "digits", board.spec).adopt(board.rows())
    assert main(["frontier", "digits", "--out", str(tmp_path), "--check"]) == 2
    assert "was taken over from --records, which keep figures alone" in capsys.readouterr().err


def test_a_picked_network_is_exported(study, capsys, tmp_path):
    target = tmp_path / "picked.h5"
    arguments = ["frontier", "digits", "--out", str(study), "--pick", "accuracy>0", "--to", str(target)]
    assert main(arguments) == 0
    assert "its run is" in capsys.readouterr().out
    assert load(target).ops
    assert main(arguments) == 2
    assert "exists; give --overwrite or another --to" in capsys.readouterr().err
    assert main(["frontier", "digits", "--out", str(study), "--pick", "energy<1fJ"]) == 2
    assert "no network of the study meets that" in capsys.readouterr().err


def test_a_study_without_a_finished_trial_says_so(tmp_path, capsys):
    pytest.importorskip("optuna")
    spec = Spec(Space(get_recipe("digits"), (Axis("act_states", (2, 4)),)))
    Board(str(tmp_path / "journal.log"), "digits", spec).extend(None)
    assert main(["frontier", "digits", "--out", str(tmp_path)]) == 2
    assert "has no finished network yet (3 trials)" in capsys.readouterr().err
    assert main(["frontier", "other", "--out", str(tmp_path)]) == 2
    assert "holds no study 'other'; it holds: digits" in capsys.readouterr().err
    assert main(["frontier", "digits", "--out", str(tmp_path), "--cost", "time"]) == 2
    assert "unknown cost 'time'" in capsys.readouterr().err
