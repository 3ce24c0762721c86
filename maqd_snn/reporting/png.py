"""Small PNG images for a page, as bytes, the same bytes for the same pixels. (W3C, Portable Network Graphics.)"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int, int]  # red, green, blue, opacity, each 0..255

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(pixels: NDArray[np.uint8], palette: Sequence[Colour] | None = None) -> bytes:
    """Return an image.

    Args:
        pixels: (H, W) indices into the palette, or (H, W, 3) red, green, blue. palette: up to 256 colours.

    >>> png(np.zeros((1, 2), np.uint8), [(0, 0, 0, 255)])[:8] == SIGNATURE
    True
    """
    height, width = pixels.shape[:2]
    kind = 2 if palette is None else 3
    rows = np.zeros((height, 1 + pixels[0].size), np.uint8)  # the first byte of a row says that it is not filtered
    rows[:, 1:] = pixels.reshape(height, -1)
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if palette is not None:
        chunks.append(_chunk(b"PLTE", b"".join(bytes(colour[:3]) for colour in palette)))
        chunks.append(_chunk(b"tRNS", bytes(colour[3] for colour in palette)))
    chunks += [_chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), _chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
