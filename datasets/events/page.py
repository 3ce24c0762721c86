"""A recording as one HTML page: its windows of time as pictures in the page itself; nothing is fetched or run."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

BRIGHTER, DARKER = (58, 124, 219), (219, 78, 58)  # each legible on white and on black
_STEPS = 15  # of strength and sign, each a colour of the palette

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #556070; --paper: #fff; --line: #ccd3dd;
  --brighter: #2563b8; --darker: #b83a28; --glow: 1 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa5b5; --paper: #12161d; --line: #39424f;
  --brighter: #7cb0ff; --darker: #ff8a76; --glow: 1.5 } }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; font: 1rem/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.25rem; overflow-wrap: anywhere; margin: 0 0 .25rem }
p { margin: 0 0 1rem; color: var(--soft) }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: .75rem;
  margin: 0; padding: 0; list-style: none }
figure { margin: 0 }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; filter: brightness(var(--glow));
  border: 1px solid var(--line) }
figcaption { font-size: .875rem; color: var(--soft); font-variant-numeric: tabular-nums }
.b, .d { font-weight: 600 }
.b { color: var(--brighter) }
.d { color: var(--darker) }
""".strip()


def page(
    title: str,
    size: tuple[int, int],
    spans: Sequence[tuple[int, int]],
    counts: Sequence[int],
    strengths: Iterable[NDArray[np.float64]],
) -> str:
    """Return the page.

    Args:
        title: the recording. size: (width, height) of a picture.
        spans: (begin, end) of each window in us. counts: its events.
        strengths: its pixels (H, W) in -1..1, darker to brighter; taken one by one.
    """
    first, last = spans[0][0], spans[-1][1]
    figures = "\n".join(
        f'<li><figure><img src="data:image/png;base64,{_picture(strength)}" width="{size[0]}" height="{size[1]}" '
        f'alt="window {number}"><figcaption>{_ms(begin - first)}\u2013{_ms(end - first)} ms<br>{count:,} '
        f"event{'s' * (count != 1)}</figcaption></figure></li>"
        for number, ((begin, end), count, strength) in enumerate(zip(spans, counts, strengths, strict=True), start=1)
    )
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{sum(counts):,} events in {_ms(last - first)} ms from {first:,} \u00b5s on; {size[0]} \u00d7 {size[1]} pixels;
{len(counts)} windows. <span class="b">Brighter</span>, <span class="d">darker</span>.</p>
<ol>
{figures}
</ol>
</body>
</html>
"""
    return text.encode("utf-8", "replace").decode("utf-8")  # names of files may hold halves of surrogate pairs


def _ms(duration_us: int) -> str:
    return f"{duration_us / 1000:,.1f}"


def _picture(strength: NDArray[np.float64]) -> str:
    """Return a PNG in base64, clear where nothing happens, so that it suits a light and a dark page."""
    from PIL import Image

    levels = np.round(strength * _STEPS).astype(np.int16)
    image = Image.fromarray((levels + _STEPS).astype(np.uint8), "L")
    image.putpalette(
        bytes(value for level in range(-_STEPS, _STEPS + 1) for value in (BRIGHTER if level > 0 else DARKER))
    )
    opacity = bytes(round(255 * abs(level) / _STEPS) for level in range(-_STEPS, _STEPS + 1))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=opacity)
    return base64.b64encode(file.getvalue()).decode()
