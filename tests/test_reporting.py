"""The report page: what it says, that it is one safe and well-formed page, and that charts draw what they are given."""

import base64
import copy
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest

from maqd_snn.counting import COUNT_NAMES
from maqd_snn.pricing import EnergyReport
from maqd_snn.profiles import PROFILES
from maqd_snn.reporting import charts
from maqd_snn.reporting.html import NUMBERED_CLASSES, TERMS, html_report, ratio_text, wilson_interval
from maqd_snn.reporting.text import text_report

Report = dict[str, Any]

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.test/x onerror=alert(1)>&{{ 7777*7 }}"
SAMPLES = 200
RANKS = {
    "smallest": 900,
    "largest": 4321,
    "bin_width": 16,
    "p05": 1000,
    "p25": 2000,
    "p50": 3000,
    "p75": 3500,
    "p95": 4000,
}
# What the page writes with signs is compared in plain letters.
PLAIN = str.maketrans({"\N{NO-BREAK SPACE}": " ", "\N{MULTIPLICATION SIGN}": "x", "\N{EN DASH}": "-"})


# A small report, written by hand: nothing is trained and nothing is simulated.


def _layer(name: str, op: str, **values: Any) -> Report:
    counts = dict.fromkeys(COUNT_NAMES, 0)
    known: Report = {
        "name": name,
        "op": op,
        "spiking": False,
        "input_kind": "accumulators",
        "output_shape": [10],
        "weights": 0,
        "nonzero_weights": 0,
        "weight_bits": 0,
        "input_bits": 1,
        "accumulator_bits": 2,
        "largest_input": 1,
        "levels": 0,
        "lowest_level": 0,
        "neurons": 0,
        "histogram": [],
    }
    layer = {**counts, **known, **values}
    layer["per_sample"] = {key: {"mean": layer[key] / SAMPLES, "deviation": 12.5} for key in COUNT_NAMES}
    return layer


def _energy_entry(name: str, total_pj: float | None, missing: tuple[str, ...] = ()) -> Report:
    profile = EnergyReport(PROFILES[name], (), 0.0, 0.0, (), {}).to_dict()["profile"]
    return {
        "profile": profile,
        "total_pj": total_pj,
        "priced_pj": 30_000.0 if total_pj is None else total_pj,
        "unpriced": [f"conv1: {operation}" for operation in missing],
        "sensitivity": [{"factor": f, "energy_pj": 1e6 * f} for f in (0.5, 1.0, 2.0)] if profile["memories"] else [],
        "layers": [
            {
                "name": "conv1",
                "op": "Conv2d",
                "energy_pj": None if missing else 10_000.0,
                "terms": {} if missing else {"mac": 10_000.0},
                "missing": list(missing),
            },
            {
                "name": "conv2",
                "op": "Conv2d",
                "energy_pj": 30_000.0,
                "terms": {"synop_binary": 30_000.0},
                "missing": [],
            },
        ],
    }


def _picture(width: int = 3, height: int = 2) -> Report:
    return {"width": width, "height": height, "png": "iVBORw0KGgoAAAANSUhEUgAA"}


def _sample(index: int, label: int | None, prediction: int) -> Report:
    return {
        "index": index,
        "label": label,
        "prediction": prediction,
        "scores": [300, -20, 7],
        "input": _picture(),
        "layers": [
            {"name": "spike1", "shape": [4, 8, 8], "rate": 0.25, "channels": 3, "picture": _picture()},
            {"name": "spike2", "shape": [8, 4, 4], "rate": 0.5, "channels": 8, "picture": None},
        ],
    }


def make_report(**changes: Any) -> Report:
    layers = [
        _layer("conv1", "Conv2d", output_shape=[4, 8, 8], dense_macs=400_000, macs=400_000, weights=36,
               nonzero_weights=27, weight_bits=8, input_bits=5, accumulator_bits=13, input_kind="analog"),
        _layer("spike1", "Threshold", output_shape=[4, 8, 8], neurons=256, levels=2, spikes=12_800,
               neuron_updates=51_200, threshold_tests=102_400, histogram=[38_400, 10_000, 2_800],
               channel_spikes=[6_400, 0, 3_200, 3_200]),
        _layer("pool1", "MaxPool2d", spiking=True, compares=12_800),
        _layer("conv2", "Conv2d", spiking=True, input_kind="spikes", output_shape=[8, 4, 4], events=10_000,
               synops=600_000, effective_synops=300_000, unit_spike_acs=700_000, bit_serial_adds=650_000,
               dense_macs=2_000_000, weights=288, nonzero_weights=144, weight_bits=2, input_bits=2,
               accumulator_bits=9),
        _layer("flatten", "Flatten", spiking=True),
        _layer("readout", "Readout", adds=600),
    ]  # fmt: skip
    totals: Report = {name: sum(layer[name] for layer in layers) for name in COUNT_NAMES}
    totals["per_sample"] = {name: {"mean": totals[name] / SAMPLES, "deviation": 44.5, **RANKS} for name in COUNT_NAMES}
    totals |= {"class_synops": [280_000, 210_000, 110_000], "class_spikes": [7_000, 4_200, 1_600]}
    report: Report = {
        "schema": 1,
        "library": "maqd-snn 9.9.9",
        "created": "2026-11-23T16:32:46+00:00",
        "machine": {"python": "3.11.7", "cores": 2},
        "dataset": {
            "name": "shapes",
            "title": "Shapes, drawn by hand",
            "classes": ["circle", "square", "star"],
            "shape": [1, 8, 8],
            "low": 0,
            "high": 16,
            "kind": "analog",
            "train": 1000,
            "validation": 100,
            "test": SAMPLES,
            "licence": "CC BY 4.0",
            "citation": "A. Drawer: Shapes. 1998.",
            "url": "https://example.org/shapes",
        },
        "recipe": {
            "name": "shapes-small",
            "model": "vgg",
            "plan": "4-M-8",
            "act_states": 3,
            "weight_states": 3,
            "signed": False,
            "weight_step": None,
            "lr": 0.006,
        },
        "provenance": {
            "library": "maqd-snn 9.9.9",
            "best_epoch": 2,
            "validation_accuracy": 0.81,
            "fold_check": {"samples": 100, "values": 123_456, "mismatches": 0},
            "created": "2026-11-23T16:30:00+00:00",
        },
        "history": [
            {"epoch": epoch, "lr": 0.01, "train_loss": 2.0 / epoch, "train_accuracy": 0.3 * epoch,
             "validation_loss": 1.9, "validation_accuracy": 0.4 * epoch, "spike_rate": 0.25, "seconds": 30.0}
            for epoch in (1, 2)
        ],
        "accuracy": {"test": 0.785, "validation": 0.81},
        "simulation": {
            "schema": 1,
            "samples": SAMPLES,
            "layers": layers,
            "total": totals,
            "accuracy": 0.785,
            "class_samples": [70, 70, 60],
            "worst_sample": {"index": 17, "label": 2, "counts": {"synops": 4_321}, "layer_synops": {"conv2": 4_321}},
            "confusion": [[60, 10, 0], [5, 57, 8], [0, 20, 40]],
        },
        "energy": {
            "cmos45-int8": _energy_entry("cmos45-int8", 40_000.0),
            "cmos45-memory": _energy_entry("cmos45-memory", 400_000.0),
            "loihi1": _energy_entry("loihi1", None, ("mac",)),
        },
        "baselines": [
            {"name": "dense-fp32", "title": "dense, fp32", "energy_pj": 8e6, "basis": "measured prices"},
            {"name": "dense-int8", "title": "dense, int8", "energy_pj": 400_000.0, "basis": "measured prices"},
            {"name": "dense-low-bit", "title": "dense, low-bit", "energy_pj": 20_000.0, "basis": "derived prices",
             "scope": "arithmetic"},
            {"name": "dense-int8-memory", "title": "dense, int8, SRAM", "energy_pj": 200_000.0,
             "basis": "estimated prices", "scope": "memory"},
        ],
        "break_even": [
            {"profile": "cmos45-int8", "rival": "dense-int8", "share": 1.0, "measured": 0.3, "reason": "",
             "pays": True},
            {"profile": "cmos45-memory", "rival": "dense-low-bit-memory", "share": 0.124, "measured": 0.3, "reason": "",
             "pays": False},
            {"profile": "loihi1", "rival": "", "share": None, "measured": 0.3, "reason": "no such price", "pays": None},
            {"profile": "odin", "rival": "", "share": None, "measured": 0.3, "reason": "no such price", "pays": None},
        ],
        "samples": [_sample(3, 0, 0), _sample(7, 2, 1)],
        "exports": [
            {
                "format": "nir",
                "file": "network.nir",
                "check": {"format": "nir", "runtime": "snntorch 1.0.0", "samples": 100, "scores": 300, "mismatches": 0,
                          "largest_difference": 0.0, "note": "one step", "ok": True},
                "problem": "",
            }
        ],
    }  # fmt: skip
    return {**report, **changes}


# Reading a page


class _Page(HTMLParser):
    """Checks that tags are balanced and gathers text, tags and attributes; `section` narrows the text to one id."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, str] = {}
        self.ids: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute twice in {tag}: {attrs}"
        self.tags.append((tag, values))
        if values.get("id"):
            self.ids.append(str(values["id"]))
            self._section = self.ids[-1]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"nothing is open at </{tag}>"
        assert self.open[-1] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words[self._section] = self.words.get(self._section, "") + " " + data

    def text(self, section: str | None = None) -> str:
        words = " ".join(self.words.values()) if section is None else self.words[section]
        return " ".join(words.translate(PLAIN).split())


@pytest.fixture(scope="module")
def page() -> _Page:
    return _Page(html_report(make_report()))


SECTIONS = [
    "energy",
    "layers",
    "activity",
    "samples",
    "levels",
    "training",
    "confusion",
    "verification",
    "terms",
    "provenance",
]


def test_every_section_is_there_and_in_the_navigation(page: _Page) -> None:
    assert page.ids == SECTIONS
    assert [values["href"] for tag, values in page.tags if tag == "a"] == [f"#{name}" for name in SECTIONS]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("", "shapes-small"),
        ("", "Shapes, drawn by hand"),
        ("", "324 weights, 53 % of them nonzero, with 3 activation states and 3 weight states"),
        ("", "vgg 4-M-8"),
        ("", "78.5 %"),
        ("", "157 of 200 test images, integer network"),
        ("", "95 % interval 72.3 to 83.6 %"),
        ("", "81.0 % on validation"),
        ("", "Guessing would give 33.3 %"),
        ("", "SynOps per image 3.00 k"),
        ("", "± 44.5 standard deviation"),
        ("", "30.0 % of the 10.0 k dense MACs of the spiking layers"),
        ("", "In addition 2.00 k dense MACs of layers that are fed no spikes"),
        ("", "Energy per image 40.0 nJ"),
        ("", "200 x below dense fp32 (8.00 µJ)"),
        ("", "10.0 x below dense int8 (400 nJ)"),
        ("", "2.00 x above dense low-bit (20.0 nJ)"),  # an unfavourable ratio is said as plainly
        ("", "which dominate on a real chip"),
        ("", "Verified 1 of 1 files give the same class scores 0 of 300 scores differ"),
        ("", "0 of 123,456 values differ from the trained model"),
        ("energy", "cmos45-int8, spikes 40.0 nJ"),
        ("energy", "loihi1 no total: more than 30.0 nJ"),
        ("energy", "Intel Loihi 1 loihi1 no total 30.0 nJ priced not comparable 14 nm, 0.75 V a chip's own operations"),
        ("energy", "arithmetic, int8 cmos45-int8 40.0 nJ 200 x below 10.0 x below 2.00 x above 45 nm, 0.9 V arith"),
        ("energy", "with its memories cmos45-memory 400 nJ - 2.00 x above - 45 nm, 0.9 V arithmetic and memory"),
        ("energy", "Where it goes, cmos45-memory"),
        ("energy", "conv2: one synaptic operation of a spike without a level: an accumulation: 30.0 nJ"),
        ("energy", "Layer by term, cmos45-int8 Energy per image Layer SynOps MACs Total Share conv1"),
        ("energy", "conv2 30.0 nJ 30.0 nJ 75.0 % total 30.0 nJ 10.0 nJ 40.0 nJ"),
        ("energy", "cmos45-memory dense low-bit 12.4 % above: the dense network is cheaper"),
        ("energy", "cmos45-int8 dense int8 100.0 % below: spikes pay"),
        ("energy", "Measured here: 30.0 %"),
        ("energy", "loihi1, odin: no such price"),
        ("energy", "Profile x 0.5 x 1 x 2 cmos45-memory 500 nJ 1.00 µJ 2.00 µJ"),
        ("energy", "Memories accesses of 64 bits; messages 8,192 bytes, others as needed"),
        ("energy", "hop north-south 3 4 pJ"),
        ("activity", "The most SynOps took image number 17 (star): 4.32 k."),
        ("activity", "all layers 900 1.00 k 2.00 k 3.00 k 3.50 k 4.00 k 4.32 k 16"),
        ("activity", "the mean of all is 3.00 k SynOps"),
        ("activity", "circle 70 4.00 k +33.3 % 100"),
        ("activity", "star 60 1.83 k -38.9 % 26.7"),
        ("activity", "4 channels, 0.0 % to 50.0 %, mean 25.0 %; 1 silent channel 0: 50.00 % channel 1: 0.00 %"),
        ("samples", "Test image 3: circle circle Class scores; the true class is circle circle 300 star 7 square -20"),
        ("samples", "Test image 7: star square Class scores; the true class is star"),
        ("samples", "spike1 4 x 8 x 8, 25.0 % spike; the first 3 of 4 channels"),
        ("samples", "spike2 8 x 4 x 4, 50.0 % spike; left out to keep the page small"),
        ("energy", "No price was published for one multiply-accumulate of a layer that is not spiking: conv1"),
        ("energy", "is k events of k neurons: no graded spikes"),
        ("energy", "Davies et al., IEEE Micro 2018, table 2 (pre-silicon simulation, 0.75 V): neuron update, active"),
        ("energy", "conv1 10.0 nJ (25.0 %)"),
        ("energy", "one multiply-accumulate of a layer that is not spiking 1 0.23 pJ 10.0 nJ 25.0 %"),
        ("energy", "dense low-bit 20.0 nJ arithmetic alone derived prices dense, low-bit"),
        ("energy", "dense int8 200 nJ arithmetic and memory estimated prices dense, int8, SRAM"),
        ("layers", "conv1 Conv2d 4 x 8 x 8 36 75 % 8 · 5 · 13 fed no spikes: dense MACs 2.00 k 40.0 %"),
        ("layers", "spike1 Threshold 4 x 8 x 8 0.250 512 threshold tests"),
        ("layers", "pool1 MaxPool2d 10 64 comparisons"),
        ("layers", "conv2 Conv2d 8 x 4 x 4 288 50 % 2 · 2 · 9 50 3.00 k 12.5 1.50 k 10.0 k 60.0 %"),
        ("layers", "total 324 53 % 50 3.00 k 44.5 1.50 k 12.0 k"),
        ("layers", "2.00 k MACs, charged in full"),
        ("layers", "3.00 k of 10.0 k (30.0 %)"),
        ("levels", "spike1 256 neurons, 3 levels, 25.0 % spike"),
        ("levels", "75.0%"),
        ("levels", "level 2: 2,800 times, 5.47 %"),
        ("training", "2 epochs, 1.0 minutes. The network of epoch 2 was kept, the best on validation (80.00 %)"),
        ("training", "best: epoch 2"),
        ("confusion", "circle 60 10 0 85.7 %"),
        ("confusion", "star square 20 33.3 %"),
        ("verification", "nir network.nir verified snntorch 1.0.0 100 300 0 0 one step"),
        ("verification", "exact 0 of 123,456 values differ between the trained model and its integer network"),
        ("terms", "Unit-spike accumulations 3.50 k 44.5 What the SynOps become"),
        ("terms", "Bit-serial additions 3.25 k"),
        ("provenance", "weight step - lr 0.006"),
        ("provenance", "signed no"),
        ("provenance", "trained 2026-11-23 16:30 UTC reported 2026-11-23 16:32 UTC"),
        ("provenance", "1,000 for training, 100 for validation, 200 for test"),
        ("provenance", "Licence CC BY 4.0 Citation A. Drawer: Shapes. 1998. From https://example.org/shapes"),
        ("provenance", "maqd-snn 9.9.9"),
    ],
)  # fmt: skip
def test_the_page_says(page: _Page, section: str, expected: str) -> None:
    assert expected in page.text(section)


def test_every_count_is_explained() -> None:
    assert [term[0] for term in TERMS if term[0] not in COUNT_NAMES] == []
    assert set(COUNT_NAMES) == {term[0] for term in TERMS}


def test_flatten_counts_nothing_and_has_no_row(page: _Page) -> None:
    assert "flatten" not in page.text("layers")


def test_tables_and_charts_tell_what_they_are(page: _Page) -> None:
    tables = [index for index, (tag, _) in enumerate(page.tags) if tag == "table"]
    assert tables
    assert all(page.tags[index + 1][0] == "caption" for index in tables)
    images = [values for tag, values in page.tags if tag == "svg" and "chart" in str(values.get("class"))]
    assert len(images) >= 9
    assert all(values["role"] == "img" and values["aria-label"] for values in images)
    scrolled = [values for _, values in page.tags if values.get("class") == "scroll"]
    assert all(values["tabindex"] == "0" and values["aria-label"] for values in scrolled)


def test_the_same_values_give_the_same_bytes() -> None:
    assert html_report(make_report()).encode() == html_report(make_report()).encode()


def test_the_report_is_not_changed() -> None:
    report = make_report()
    before = copy.deepcopy(report)
    html_report(report)
    assert report == before


def _policy(page: _Page) -> dict[str, str]:
    content = next(str(v["content"]) for tag, v in page.tags if v.get("http-equiv") == "Content-Security-Policy")
    return {part.split()[0]: " ".join(part.split()[1:]) for part in content.split(";")}


def test_the_page_fetches_nothing_and_runs_its_own_script_alone(page: _Page) -> None:
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"]
    for tag, values in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "image", "use", "base", "form", "video", "audio"}
        assert not {"srcset", "action", "data", "background", "xlink:href"} & set(values)
        assert not [name for name in values if name.startswith("on")]
        assert str(values.get("href", "#")).startswith("#")
        assert "src" not in values or (tag == "img" and str(values["src"]).startswith("data:image/png;base64,"))
        assert not re.search(r"url\(|@import|expression", values.get("style") or "")
    text = html_report(make_report())
    style = text[text.index("<style>") : text.index("</style>")]
    assert len(style) > 1000
    assert not re.search(r"url\(|@import|@font-face", style)
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    assert not re.search(r"fetch|XMLHttpRequest|import|innerHTML|eval|document\.write|https?:", script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert _policy(page) == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "script-src": f"'sha256-{digest}'",
    }


def test_every_class_has_a_style_and_every_colour_its_dark_and_printed_twin() -> None:
    used: set[str] = set()
    for report in (make_report(), _many_classes(30), make_report(mapping=MAPPING, compare=COMPARE)):
        for _, values in _Page(html_report(report)).tags:
            used.update(str(values.get("class") or "").split())
    style = files("maqd_snn.reporting").joinpath("report.css").read_text(encoding="utf-8")
    for_the_script = {"sortable", "browser", "previous", "next"}
    assert used - {"name"} - for_the_script <= set(re.findall(r"\.([a-z][a-z0-9-]*)", style)) | {"shade8"}
    light, dark, printed = (
        set(re.findall(r"(--[a-z-]+):", block)) for block in re.findall(r":root \{([^}]*)\}", style)
    )
    assert light == dark == printed
    assert set(re.findall(r"var\((--[a-z-]+)\)", style)) - {"--s"} == light


MAPPING: Report = {
    "title": "On four cores",
    "text": "Everything fits.",
    "facts": [["cores", "4 of 128"]],
    "tables": [{"caption": "Cores", "columns": ["core", "layer"], "rows": [["0", "conv1"], ["1", "conv2"]]}],
    "figures": [
        {
            "caption": "Floor plan",
            "media": "image/svg+xml",
            "data": "PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4=",
        },
        {"caption": "Not shown", "media": "text/html", "data": "PHN2ZyB4bWxucz0iaHR0cDovL3d3"},
        {"caption": "Not shown either", "media": "image/png", "data": "no base64 at all, and long enough"},
    ],
}
COMPARE: Report = {
    "samples": 20,
    "tools": [
        {
            "name": "NeuroBench",
            "version": "2.3.0",
            "rows": [
                {
                    "metric": "Dense",
                    "theirs": 1234.5,
                    "ours": 1234.5,
                    "name": "dense_macs",
                    "agrees": True,
                    "why": "same",
                },
                {
                    "metric": "Effective_ACs",
                    "theirs": 3,
                    "ours": 4,
                    "name": "effective_synops",
                    "agrees": False,
                    "why": "?",
                },
                {"metric": "footprint", "theirs": 4000, "ours": 100, "name": "bits", "agrees": None, "why": "32 bits"},
            ],
        },
        {"name": "SpikingJelly", "version": "", "problem": "it is not installed", "rows": []},
    ],
}


def test_a_mapping_and_a_comparison_are_shown_where_there_are_any() -> None:
    page = _Page(html_report(make_report(mapping=MAPPING, compare=COMPARE)))
    assert page.ids == [*SECTIONS[:6], "confusion", "compare", "mapping", *SECTIONS[7:]]
    mapping, compare = page.text("mapping"), page.text("compare")
    for words in ("On four cores", "Everything fits.", "cores 4 of 128", "core layer 0 conv1 1 conv2", "Floor plan"):
        assert words in mapping
    assert "Not shown" not in mapping
    assert [str(v["src"])[:26] for tag, v in page.tags if v.get("class") == "figure"] == ["data:image/svg+xml;base64,"]
    for words in (
        "first 20 test images",
        "NeuroBench 2.3.0",
        "Dense 1,234.5 1,234.5 dense_macs equal same",
        "Effective_ACs 3 4 effective_synops DIFFERS ?",
        "footprint 4,000 100 bits another definition 32 bits",
        "SpikingJelly it is not installed",
    ):
        assert words in compare


@pytest.mark.parametrize(
    "picture",
    [
        None,
        {},
        {"width": 3, "height": 2, "png": "javascript:alert(1)"},
        {"width": 3, "height": 2, "png": 'iVBORw0KGgoAAAANSUhE" onerror="x'},
        {"width": 3, "height": 2, "png": 7},
        {"width": 10**6, "height": 2, "png": "iVBORw0KGgoAAAANSUhEUgAA"},
        {"width": "3", "height": 2, "png": "iVBORw0KGgoAAAANSUhEUgAA"},
    ],
)
def test_a_picture_that_is_none_is_left_out(picture: Any) -> None:
    report = make_report(samples=[{**_sample(3, 0, 0), "input": picture, "layers": []}])
    page = _Page(html_report(report))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "Test image 3: circle" in page.text("samples")


def _with_hostile_text(value: Any) -> Any:
    """Replace every text of the report by one that tries to break out, and keep the keys."""
    if isinstance(value, Mapping):
        return {key: _with_hostile_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_hostile_text(entry) for entry in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_all_text_is_data(page: _Page) -> None:
    text = html_report(_with_hostile_text(make_report(mapping=MAPPING, compare=COMPARE)))
    assert "MaxPool2d&lt;script&gt;" in text
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    assert "<img src=http" not in text
    assert "54439" not in text
    attacked = _Page(text)
    assert {tag for tag, _ in attacked.tags} <= {tag for tag, _ in page.tags}
    assert not [name for _, values in attacked.tags for name in values if name.startswith("on")]
    assert not [values for _, values in attacked.tags if "src" in values]  # no picture is plain base64 any more
    assert "<script>alert('x')</script>" in attacked.text("")


@pytest.mark.parametrize("place", ["recipe", "classes", "note", "problem", "layer", "profile", "unit"])
def test_hostile_text_is_shown_as_text(place: str) -> None:
    report = make_report()
    if place == "recipe":
        report["recipe"]["name"] = HOSTILE
    elif place == "classes":
        report["dataset"]["classes"][1] = HOSTILE
    elif place == "note":
        report["exports"][0]["check"]["note"] = HOSTILE
    elif place == "problem":
        report["exports"][0].update(check=None, problem=HOSTILE)
    elif place == "layer":
        report["simulation"]["layers"][1]["name"] = HOSTILE
    elif place == "profile":
        report["energy"]["cmos45-int8"]["profile"]["title"] = HOSTILE
    else:
        report["recipe"][HOSTILE] = 1
    text = html_report(report)
    assert text.count("<script") == 1
    assert "<img src=http" not in text
    assert " ".join(HOSTILE.split()) in _Page(text).text()


def test_halves_of_surrogate_pairs_can_be_written() -> None:
    report = make_report()
    report["recipe"]["name"] = "half \ud800 pair"
    assert "half ? pair" in html_report(report).encode().decode()


def _paths(value: Report) -> Iterator[tuple[str, ...]]:
    yield from ((name,) for name in value if name != "simulation")
    optional = ("class_samples", "worst_sample", "confusion", "accuracy")
    yield from (("simulation", name) for name in optional)
    yield from (("dataset", name) for name in value["dataset"])
    yield from (("recipe", name) for name in value["recipe"])
    yield from (("provenance", name) for name in value["provenance"])


@pytest.mark.parametrize("path", list(_paths(make_report())), ids=".".join)
def test_a_part_may_be_missing(path: tuple[str, ...]) -> None:
    report = make_report()
    holder = report if len(path) == 1 else report[path[0]]
    del holder[path[-1]]
    assert _Page(html_report(report)).ids == SECTIONS


def test_the_counts_alone_make_a_page() -> None:
    report = {"simulation": {**make_report()["simulation"], "confusion": None, "accuracy": None}}
    page = _Page(html_report(report))
    assert page.ids == SECTIONS
    for section, words in (
        ("", "Accuracy on test unknown"),
        ("", "not priced"),
        ("", "Not verified no file was exported folding was not checked"),
        ("energy", "No energy profile was asked for."),
        ("training", "The report holds no training history."),
        ("samples", "The report holds no samples to look at."),
        ("confusion", "no confusion matrix"),
        ("verification", "No file was exported."),
    ):
        assert words in page.text(section)


@pytest.mark.parametrize("accuracy", [None, {}, {"test": None, "validation": None}])
def test_without_labels_there_is_no_accuracy(accuracy: Report | None) -> None:
    assert "unknown" in _Page(html_report(make_report(accuracy=accuracy))).text("")


def test_event_data_has_samples_and_not_images() -> None:
    report = make_report()
    report["dataset"]["kind"] = "events"
    text = _Page(html_report(report)).text()
    assert "SynOps per sample" in text
    assert "image" not in text


@pytest.mark.parametrize(
    ("mismatches", "problem", "folded_wrong", "verdict"),
    [
        (0, "", 0, "Verified"),
        (3, "", 0, "Failed"),
        (0, "", 1, "Failed"),
        (0, "nir is not installed", 0, "Partly verified"),
        (3, "nir is not installed", 0, "Failed"),
        (None, "nir is not installed", 0, "Not verified"),
        (None, "nir is not installed", 1, "Failed"),
        (None, "", 0, "Not verified"),
    ],
)
def test_verdict(mismatches: int | None, problem: str, folded_wrong: int, verdict: str) -> None:
    report = make_report()
    good = report["exports"].pop()
    if mismatches is not None:
        good["check"].update(mismatches=mismatches, ok=mismatches == 0)
        report["exports"].append(good)
    if problem:
        report["exports"].append({"format": "onnx", "file": None, "check": None, "problem": problem})
    report["provenance"]["fold_check"]["mismatches"] = folded_wrong
    page = _Page(html_report(report))
    assert f"Exported files and folding {verdict} " in page.text("")
    assert ("FAILED" in page.text("verification")) == (verdict == "Failed")
    assert problem in page.text("verification")


def test_the_bytes_of_the_c_program_are_there() -> None:
    report = make_report()
    assert "C program" not in _Page(html_report(report)).text("verification")
    sizes = {"flash_weights": 43_808, "flash_thresholds": 504, "ram_dense": 6_416, "ram_events": 14_864}
    check = {"runtime": "gcc", "samples": 1, "scores": 3, "mismatches": 0, "largest_difference": 0.0, "ok": True}
    report["exports"].append(
        {"format": "c", "file": "network.c", "check": {**check, "checks": [{"figures": {}}, {"figures": sizes}]}}
    )
    text = _Page(html_report(report)).text("verification")
    for words in (
        "Flash weights, packed by their states 43,808",
        "Flash thresholds and tables 504",
        "RAM static buffers of the dense form 6,416",
        "RAM static buffers of the event-driven form 14,864",
    ):
        assert words in text
    assert "both forms are built in" not in text  # not measured, not shown


def test_a_total_is_never_made_up() -> None:
    report = make_report(energy={"loihi1": _energy_entry("loihi1", None, ("mac",))})
    page = _Page(html_report(report))
    assert "Energy per image no total" in page.text("")
    assert " below dense" not in page.text("")
    assert " above dense" not in page.text("")


def test_a_chip_is_not_compared_with_arithmetic_of_another_node() -> None:
    report = make_report(energy={"loihi1": _energy_entry("loihi1", 40_000.0)})
    page = _Page(html_report(report))
    assert "Energy per image 40.0 nJ" in page.text("")
    assert " below dense" not in page.text("")
    assert page.text("energy").count("not comparable") == 1


def _many_classes(size: int) -> Report:
    report = make_report()
    report["dataset"]["classes"] = [f"class{index}" for index in range(size)]
    report["simulation"]["confusion"] = [
        [50 if row == column else (row * 7 + column * 3) % 5 for column in range(size)] for row in range(size)
    ]
    return report


@pytest.mark.parametrize(("size", "numbered"), [(2, True), (NUMBERED_CLASSES, True), (NUMBERED_CLASSES + 1, False)])
def test_few_classes_are_numbers_and_many_a_heat_map(size: int, numbered: bool) -> None:
    page = _Page(html_report(_many_classes(size)))
    cells = [values for tag, values in page.tags if tag == "td" and " taken for " in str(values.get("title"))]
    assert len(cells) == (size * size if numbered else 0)
    assert (f"All {size} classes" in page.text("confusion")) != numbered
    assert any("square" in str(values.get("class")) for tag, values in page.tags if tag == "svg") != numbered


@pytest.mark.parametrize("size", [100, 300])
def test_many_classes_stay_small(size: int) -> None:
    text = html_report(_many_classes(size))
    assert len(text.encode()) < 1_000_000
    page = _Page(text)
    assert f"class{size - 1}" in page.text("confusion")
    assert ("one cell is 3 x 3 classes" in page.text("confusion")) == (size == 300)


def test_a_class_without_samples_and_a_network_without_mistakes() -> None:
    report = make_report()
    report["simulation"]["confusion"] = [[9, 0, 0], [0, 0, 0], [0, 0, 4]]
    text = _Page(html_report(report)).text("confusion")
    assert "square 0 0 0 -" in text
    assert "No mistakes" in text


def test_history_with_gaps() -> None:
    report = make_report()
    report["history"][0].update(train_loss=math.nan, validation_loss=None, spike_rate=math.inf)
    text = html_report(report)
    training = text[text.index('id="training"') : text.index('id="confusion"')]
    assert _Page(text).text("training").count("nan") == 0
    assert not re.search(r'="[^"]*\b(nan|inf)\b', training)


@pytest.mark.parametrize("levels", [2, 5, 6, 16, 33, 256])
def test_any_number_of_levels(levels: int) -> None:
    report = make_report()
    report["simulation"]["layers"][1].update(histogram=list(range(levels, 0, -1)), lowest_level=-(levels // 2))
    assert f"{levels} levels" in _Page(html_report(report)).text("levels")


# Numbers


@pytest.mark.parametrize(
    ("ours", "theirs", "text", "mood"),
    [(1.0, 1.004, "equal to", "even"), (1.0, 1.01, "1.01 x below", "good"), (1e3, 1.0, "1,000 x above", "bad")],
)  # fmt: skip
def test_ratio(ours: float, theirs: float, text: str, mood: str) -> None:
    written, said = ratio_text(ours, theirs)
    assert (written.translate(PLAIN), said) == (text, mood)


@pytest.mark.parametrize("right", range(11))
def test_the_interval_holds_the_share_and_is_symmetric(right: int) -> None:
    low, high = wilson_interval(right / 10, 10)
    assert 0 <= low <= right / 10 <= high + 1e-12 <= 1 + 1e-12
    mirrored = wilson_interval(1 - right / 10, 10)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_the_interval_is_the_root_of_wilsons_equation() -> None:
    for end in wilson_interval(0.785, 200):
        assert abs(0.785 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 200), rel=1e-6)


# Charts


def _shapes(svg: str, tag: str, style: str) -> list[dict[str, str | None]]:
    return [values for name, values in _Page(svg).tags if name == tag and style in str(values.get("class")).split()]


def test_bars_are_proportional_and_small_ones_stay_visible() -> None:
    rows = [charts.Row(str(value), "", (charts.Part(value, "dense", ""),)) for value in (200.0, 50.0, 0.1, 0.0)]
    assert [bar["width"] for bar in _shapes(charts.bars(rows, "work"), "rect", "dense")] == ["100%", "25%", "2"]


def test_dots_are_placed_by_their_logarithm() -> None:
    values = {"a": 10.0, "b": 1000.0, "c": 100.0, "none": 0.0}
    svg = charts.log_dots({"": [charts.Dot(k, "", v, "dense") for k, v in values.items()]}, "energy", str)
    assert [dot["cx"] for dot in _shapes(svg, "circle", "dense")] == ["2%", "98%", "50%"]


def test_a_lower_bound_is_an_open_dot_with_an_arrow() -> None:
    svg = charts.log_dots({"": [charts.Dot("chip", "", 20.0, "synops", at_least=True)]}, "energy", str)
    assert len(_shapes(svg, "circle", "open")) == 1
    assert len(_shapes(svg, "line", "arrow")) == 1


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [1e-9, 1e9], [math.nan, 3.0]])
def test_dots_of_any_values(values: list[float]) -> None:
    svg = charts.log_dots({"group": [charts.Dot("x", "", value, "dense") for value in values]}, "energy", "{:g}".format)
    assert len(_shapes(svg, "circle", "dense")) == sum(value > 0 for value in values)


def test_histogram_bars_and_the_silent_level() -> None:
    svg = charts.histogram([10, 40, 20], -1, "levels")
    assert [bar["height"] for bar in _shapes(svg, "rect", "synops")] == ["22.5", "45"]
    assert [bar["height"] for bar in _shapes(svg, "rect", "silent")] == ["90"]


def test_lines_break_at_gaps_and_mark_the_best() -> None:
    line = charts.Line("loss", "train", (1.0, math.nan, 0.0, 0.5))
    svg = charts.lines([1, 2, 3, 4], [line], "loss", "{:g}".format, mark=3)
    (path,) = _shapes(svg, "path", "line")
    assert path["d"] == "M0 18M666.67 168L1000 93"
    (mark,) = _shapes(svg, "line", "mark")
    assert mark["x1"] == "69%"
    assert not _shapes(charts.lines([1, 2], [], "loss", str, mark=7), "line", "mark")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.11, 0.13), (-3.0, 1e6), (5.0, 5.0), (0.0, 0.0), (1e-9, 2e-9)])
def test_ticks_cover_and_are_even(low: float, high: float) -> None:
    values = charts.ticks(low, high)
    assert values[0] <= low
    assert values[-1] >= high
    assert 2 <= len(values) <= 8
    steps = [after - before for before, after in pairwise(values)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_heat_map_has_a_cell_for_every_pair_that_occurs() -> None:
    svg, block = charts.heat_map([[8, 0], [3, 5]], "confusion")
    assert block == 1
    assert [shape["d"] for shape in _shapes(svg, "path", "right")] == ["M1 1h1v1h-1z", "M0 0h1v1h-1z"]
    assert [shape["d"] for shape in _shapes(svg, "path", "wrong")] == ["M0 1h1v1h-1z"]


def test_heat_map_adds_up_neighbours_beyond_its_size() -> None:
    size = charts.DRAWN_CLASSES + 1
    svg, block = charts.heat_map([[int(row == column) for column in range(size)] for row in range(size)], "confusion")
    assert block == 2
    assert sum(str(shape["d"]).count("M") for shape in _shapes(svg, "path", "right")) == math.ceil(size / 2)


# The table for the terminal


def test_text_report_says_the_same() -> None:
    text = text_report(make_report())
    for expected in (
        "shapes-small: 3 activation states, 3 weight states, 200 test images",
        f"  {'conv2':<16}{'Conv2d':<11}{'':>7}{'50':>10}{'3.00 k':>10}{'1.50 k':>11}{'10.0 k':>12}",
        "accuracy     0.7850 on test, 0.8100 on validation",
        f"energy       {'cmos45-int8':<22}40.0 nJ",
        f"energy       {'loihi1':<22}no total (30.0 nJ priced; 1 terms have no published price)",
        f"baseline     {'dense-low-bit':<22}20.0 nJ",
        "0 of 123456 values differ from model.eval() on 100 images",
        "nir    verified: 0 of 300 class scores differ in snntorch 1.0.0",
    ):
        assert expected in text


def test_text_report_tells_a_problem_and_a_failure() -> None:
    report = make_report()
    report["exports"][0]["check"].update(mismatches=2, ok=False)
    report["exports"].append({"format": "onnx", "file": None, "check": None, "problem": "no onnx here"})
    text = text_report(report)
    assert "nir    FAILED: 2 of 300" in text
    assert "onnx   no onnx here" in text
    report["exports"].append({"format": "nir-events", "file": None, "check": None, "problem": "no nir here"})
    text = text_report(report)
    assert "export       nir-events no nir here" in text
    assert "export       onnx       no onnx here" in text


def test_text_report_without_accuracy() -> None:
    report = make_report()
    report["accuracy"] = {"test": None, "validation": None}
    assert "unknown on test, unknown on validation" in text_report(report)


def test_a_file_that_the_runtime_refuses_has_failed() -> None:
    report = make_report()
    report["exports"] = [
        {"format": "nir", "file": "network.nir", "check": None, "problem": "verification failed: x", "failed": True}
    ]
    page = html_report(report)
    assert "FAILED" in page
    assert "Not verified" not in page
    assert "verification failed: x" in page
