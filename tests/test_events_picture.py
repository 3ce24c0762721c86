"""`maqd data`: a page that needs nothing else, pictures that are bounded, messages with the command's own options."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from browser import needs_browser, running
from PIL import Image

from maqd_snn.cli import main
from maqd_snn.datasets.events import EVENT_DTYPE, Events, picture
from maqd_snn.datasets.events.picture import cut_windows, save_picture, windows
from maqd_snn.datasets.events.writing import write_events
from maqd_snn.errors import MaqdError


def some(count: int = 500, side: int = 128) -> Events:
    generator = np.random.default_rng(0)
    events = np.zeros(count, EVENT_DTYPE)
    events["t"] = np.sort(generator.integers(0, 100_000, count))
    events["x"], events["y"], events["p"] = (generator.integers(0, high, count) for high in (side, side, 2))
    return events


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_events("a&<b>.bin", some())
    return Path("a&<b>.bin")


def test_the_page_holds_its_pictures(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "view", str(file), "--out", "x.html", "--windows", "3", "--sensor", "128x128"]) == 0
    assert "x.html: 500 events in 3 windows" in capsys.readouterr().out
    text = Path("x.html").read_text(encoding="utf-8")
    assert "<h1>a&amp;&lt;b&gt;.bin</h1>" in text
    assert "default-src 'none'; img-src data:" in text
    assert not re.search(r"https?:|<script|<link|url\(", text)
    assert sum(int(count) for count in re.findall(r"<br>([\d,]+) events", text)) == 500
    parts = cut_windows(some(), 3, (128, 128))
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 3
    for encoded, strength in zip(pictures, parts.strengths(), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            pixels = np.asarray(image.convert("RGBA"))
        assert pixels.shape == (128, 128, 4)
        np.testing.assert_array_equal(pixels[..., 3] > 0, np.abs(strength) > 0.5 / 15)
        strong = np.abs(strength) > 0.5 / 15
        np.testing.assert_array_equal((pixels[..., 2] > pixels[..., 0])[strong], (strength > 0)[strong])


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_legible_on_a_phone(file: Path, tmp_path: Path, scheme: str) -> None:
    save_picture("x.html", some(), (128, 128), 12, "name" * 60 + ".bin")
    with running(tmp_path / "profile") as browser:
        browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.resize(390, 800)
        browser.open(tmp_path / "x.html")
        width, smallest, loaded, colours = browser.run(
            "const sizes = [...document.querySelectorAll('h1, p, figcaption')].map(e => "
            "parseFloat(getComputedStyle(e).fontSize));"
            "const style = getComputedStyle(document.body);"
            "return [document.documentElement.scrollWidth, Math.min(...sizes), "
            "[...document.images].every(i => i.complete && i.naturalWidth == 128), "
            "[style.color, style.backgroundColor]]"
        )
        assert browser.log("browser") == []
    assert width <= 390
    assert smallest >= 14
    assert loaded
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ink > paper) == (scheme == "dark")


def test_pictures_are_bounded_before_they_are_drawn(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "_balance", lambda *_: pytest.fail("it would take all memory"))
    for suffix in ("png", "gif", "html"):
        arguments = ["data", "view", str(file), "--out", f"x.{suffix}"]
        assert main([*arguments, "--sensor", "2000x2000", "--windows", "1000"]) == 2
        assert "expected at most 16 windows of 2000 x 2000 pixels, got 1000; draw fewer" in capsys.readouterr().err
        assert main([*arguments, "--sensor", "65536x65536"]) == 2
        assert "65536 x 65536 is too large to draw" in capsys.readouterr().err
        assert not Path(f"x.{suffix}").exists()
    assert main(["data", "view", str(file), "--out", "x.jpg"]) == 2
    assert "a name that ends in .png (a sheet), .gif (an animation) or .html (a page)" in capsys.readouterr().err


def test_one_picture_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = picture.Windows.images

    def spy(self: picture.Windows):  # type: ignore[no-untyped-def]
        for image in original(self):
            drawn.append(image.shape)
            yield image

    monkeypatch.setattr(picture.Windows, "images", spy)
    save_picture(tmp_path / "a.gif", some(), (128, 128), 7)
    assert drawn == [(128, 128, 3)] * 7
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 7


def test_windows_are_equal_parts_of_the_time_however_long() -> None:
    events = some(1000)
    for moved in (events, events[np.random.default_rng(1).permutation(1000)]):  # in any order
        parts = cut_windows(moved, 7, (128, 128))
        first, last = int(events["t"][0]), int(events["t"][-1])
        number = (events["t"] - first) * 7 // (last + 1 - first)
        assert np.diff(parts.bounds).tolist() == np.bincount(number, minlength=7).tolist()
        for which in range(7):
            begin, end = parts.span(which)
            inside = events[(events["t"] >= begin) & (events["t"] < end)]
            assert len(inside) == (number == which).sum()
    far = np.array([(-(2**62), 0, 0, 1), (0, 1, 0, 1), (2**62, 2, 0, 1)], EVENT_DTYPE)
    assert np.diff(cut_windows(far, 1000, (3, 1)).bounds).sum() == 3
    assert windows(far, 3, (3, 1))[:, 0, :, 0].tolist() == [[31, 255, 255], [255, 31, 255], [255, 255, 31]]
    with pytest.raises(MaqdError, match="no events to look at"):
        cut_windows(far[:0], 3, None)


def test_messages_name_the_options_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("5,1,1,1\n3,1,1,1\n")
    arguments = ["data", "info", str(tmp_path / "a.csv")]
    assert main(arguments) == 2
    assert "; --skip-damaged drops such events, --unordered keeps them\n" in capsys.readouterr().err
    assert main([*arguments, "--unordered", "--max-gb", "1e-9"]) == 2
    error = capsys.readouterr().err
    assert "raise --max-gb" in error
    assert "stream_events" not in error
    assert main([*arguments, "--unordered", "--max-gb", "20"]) == 0
    for wrong in ("0", "-1", "nan", "inf"):
        assert main([*arguments, "--max-gb", wrong]) == 2
        assert "--max-gb expects a number above 0" in capsys.readouterr().err
    (tmp_path / "empty.csv").write_text("")
    assert main(["data", "info", str(tmp_path / "empty.csv")]) == 2
    assert "with --skip-damaged this is an empty recording" in capsys.readouterr().err
