"""The compiled program: one sample after the other, one step after the other, counts on the way.

Import this file where `maqd_snn.compiled.fast` says so, and nowhere else: it needs numba. `program.py` lays out the
arrays and explains the records.

Axis letters: B batch, C channels, H height, W width, P positions, Z zones. Values lie in memory position by position,
the channels of a position beside each other, with room for more behind them.
"""

from typing import Any

import numpy as np

from maqd_snn.compiled import machine_code
from maqd_snn.integer.blocks import (
    LANES,
    POSITIONS,
    add_16,
    count_16,
    look_up_16,
    look_up_32,
    look_up_64,
    multiply_16,
    pattern_16,
    reached_16,
)
from maqd_snn.integer.program import (
    ADD,
    CODES,
    LOOK_UP_8,
    LOOK_UP_16,
    MAX_POOL,
    MULTIPLY,
    NONE,
    SUM_POOL,
    THRESHOLD,
)


@machine_code
def patterns(x: Any, step: Any, found: Any) -> None:
    """Write the bits of levels (P, C) as patterns of four channels, times the tile, into a padded image."""
    per_plane = step.per_position // step.planes
    found[:] = 0
    if step.groups == 1:
        last = (1 << (step.channels - 1) % LANES + 1) - 1  # the channels that there are of the last 16
        for y in range(step.height):
            for at in range(step.width):
                start = (y * step.width + at) * step.in_stride
                target = ((y + step.pad_h) * step.padded_width + at + step.pad_w) * step.per_position
                for plane in range(step.planes):
                    for c in range(0, step.channels, LANES):
                        mask = 65535 if c + LANES <= step.channels else last
                        pattern_16(x, start + c, plane, mask, step.tile, found, target + c // 4)
                    target += per_plane
        return
    per_group = step.channels // step.groups
    fours = (per_group + 3) // 4
    for y in range(step.height):
        for at in range(step.width):
            start = (y * step.width + at) * step.in_stride
            target = ((y + step.pad_h) * step.padded_width + at + step.pad_w) * step.per_position
            for plane in range(step.planes):
                for c in range(step.channels):
                    group, inside = c // per_group, c % per_group
                    bit = (np.int64(x[start + c]) >> plane) & 1
                    found[target + group * fours + inside // 4] += bit * (1 << (inside % 4)) * step.tile
                target += per_plane


@machine_code
def floats(x: Any, step: Any, found: Any) -> None:
    """Write values (P, C) as float32 into a padded image."""
    found[:] = 0
    for y in range(step.height):
        for at in range(step.width):
            start = (y * step.width + at) * step.in_stride
            target = ((y + step.pad_h) * step.padded_width + at + step.pad_w) * step.per_position
            source, out = x[start : start + step.channels], found[target : target + step.channels]
            for c in range(step.channels):
                out[c] = source[c]


@machine_code
def by_tables(image: Any, step: Any, tiles: Any, taps: Any, tables: Any, theta: Any, levels: Any, sums: Any) -> None:
    """Compute all sums of a convolution from patterns of spikes, block by block."""
    x_step = step.step_w * step.per_position
    for index in range(step.tiles, step.tiles_to):
        tile = tiles[index]
        for y in range(step.out_height):
            for at in range(0, step.out_width, POSITIONS):
                x_from = (y * step.step_h * step.padded_width + at * step.step_w) * step.per_position
                out_from = step.out_at + (y * step.out_width + at) * step.out_stride + tile.out
                if step.tile == 64:
                    look_up_64(
                        tables, tile.weight, image, x_from, x_step, taps, tile.taps, step.count, step.limit, theta,
                        tile.theta, step.levels, levels, sums, out_from, step.out_stride,
                    )  # fmt: skip
                elif step.tile == 32:
                    look_up_32(
                        tables, tile.weight, image, x_from, x_step, taps, tile.taps, step.count, step.limit, theta,
                        tile.theta, step.levels, levels, sums, out_from, step.out_stride,
                    )  # fmt: skip
                else:
                    look_up_16(
                        tables, tile.weight, image, x_from, x_step, taps, tile.taps, step.count, step.limit, theta,
                        tile.theta, step.levels, levels, sums, out_from, step.out_stride,
                    )  # fmt: skip


@machine_code
def by_products(image: Any, step: Any, tiles: Any, taps: Any, weights: Any, theta: Any, levels: Any, sums: Any) -> None:
    """Compute all sums of a convolution from values in float32, block by block."""
    x_step = step.step_w * step.per_position
    for index in range(step.tiles, step.tiles_to):
        tile = tiles[index]
        for y in range(step.out_height):
            for at in range(0, step.out_width, POSITIONS):
                x_from = (y * step.step_h * step.padded_width + at * step.step_w) * step.per_position
                out_from = step.out_at + (y * step.out_width + at) * step.out_stride + tile.out
                multiply_16(
                    weights, tile.weight, image, x_from, x_step, taps, tile.taps, step.count, step.limit, theta,
                    tile.theta, step.levels, levels, sums, out_from, step.out_stride,
                )  # fmt: skip


@machine_code
def compare(z: Any, step: Any, theta: Any, flip: Any, base: Any, out: Any) -> None:
    """Write the number of thresholds (levels, C) that sums (P, C) reach; channels that fall count the others."""
    for p in range(step.height * step.width):
        for c in range(0, step.channels, LANES):
            reached_16(
                z, p * step.in_stride + c, theta, step.theta + c, step.theta_step, step.levels, flip, step.flip + c,
                base, out, p * step.out_stride + c,
            )  # fmt: skip


@machine_code
def pool(x: Any, step: Any, out: Any) -> None:
    """Take the maximum or the sum of windows (P, C)."""
    channels = step.channels
    for y in range(step.out_height):
        for at in range(step.out_width):
            target = (y * step.out_width + at) * step.out_stride
            found = out[target : target + channels]
            first = True
            for dy in range(step.kernel_h):
                row = y * step.step_h - step.pad_h + dy
                if row < 0 or row >= step.height:
                    continue
                for dx in range(step.kernel_w):
                    column = at * step.step_w - step.pad_w + dx
                    if column < 0 or column >= step.width:
                        continue
                    start = (row * step.width + column) * step.in_stride
                    values = x[start : start + channels]
                    if first:
                        for c in range(channels):
                            found[c] = values[c]
                    elif step.kind == MAX_POOL:
                        for c in range(channels):
                            found[c] = max(found[c], values[c])
                    else:
                        for c in range(channels):
                            found[c] += values[c]
                    first = False


@machine_code
def add(x: Any, y: Any, step: Any, out: Any) -> Any:
    """Write x + y, all (P, C); return how many values of both are not zero."""
    positions = step.height * step.width
    whole = step.channels // LANES
    nonzero = add_16(
        x, step.in_at, step.in_stride, y, step.second_at, step.second_stride, out, step.out_at, step.out_stride,
        positions, whole,
    )  # fmt: skip
    for p in range(positions):
        for c in range(whole * LANES, step.channels):
            left = x[step.in_at + p * step.in_stride + c]
            right = y[step.second_at + p * step.second_stride + c]
            out[step.out_at + p * step.out_stride + c] = left + right
            nonzero += (left != 0) + (right != 0)
    return nonzero


@machine_code
def take_codes(codes: Any, step: Any, out: Any) -> None:
    """Write codes (C, P) less the zero point as values (P, C)."""
    positions = step.height * step.width
    for c in range(step.channels):
        source = codes[c * positions : (c + 1) * positions]
        for p in range(positions):
            out[p * step.out_stride + c] = source[p] - step.zero_point


@machine_code
def keep(x: Any, step: Any, channels: int, out: Any) -> None:
    """Copy values (P, C) to (C, P)."""
    positions = step.out_height * step.out_width
    for p in range(positions):
        for c in range(channels):
            out[c * positions + p] = x[p * step.out_stride + c]


@machine_code
def count_values(
    x: Any, at: int, stride: int, channels: int, entry: Any, runs: Any, rows: Any, per_zone: Any, effective: Any,
    active: Any, totals: Any, levels: Any, found: Any, by_channel: Any, histogram: Any,
) -> None:  # fmt: skip
    """Count the values (P, C) of one op: by zone and channel (`active`), of levels also how often each was met.

    `totals` are three lines, Z each: nonzero values, their magnitudes, the ones of their binary form; where values are
    0 and 1 the first line stands for all.
    """
    zones = entry.zones
    width = (channels + LANES - 1) // LANES * LANES
    for i in range(zones * width):
        active[i] = 0
    for index in range(entry.runs, entry.runs_to):
        run = runs[index]
        for c in range(0, channels, LANES):
            count_16(
                x, at + run.first * stride + c, run.line_step * stride, run.lines, run.step * stride, run.number,
                active, run.zone * width + c,
            )  # fmt: skip
    nonzero = np.int64(0)
    for z in range(zones):
        sums = active[z * width : z * width + channels]
        total = np.int32(0)
        for c in range(channels):
            total += np.int32(sums[c])
        totals[z] = total
        nonzero += total
    kinds = 1
    if entry.largest > 1:
        kinds = 3
        for i in range(zones, 3 * zones):
            totals[i] = 0
        levels[: zones * 256] = 0
        for index in range(entry.runs, entry.runs_to):
            run = runs[index]
            for line in range(run.lines):
                for k in range(run.number):
                    first = at + (run.first + line * run.line_step + k * run.step) * stride
                    for c in range(channels):
                        levels[run.zone * 256 + x[first + c]] += 1
        for z in range(zones):
            for k in range(1, entry.largest + 1):
                met = np.int64(levels[z * 256 + k])
                ones, rest = 0, k
                while rest:
                    ones += rest & 1
                    rest >>= 1
                totals[zones + z] += met * k
                totals[2 * zones + z] += met * ones
                if entry.histogram != NONE:
                    histogram[entry.histogram + k] += met
    elif entry.histogram != NONE:
        histogram[entry.histogram + 1] += nonzero
    if entry.histogram != NONE:
        histogram[entry.histogram] += entry.positions * channels - nonzero
        all_sums = by_channel[entry.channels : entry.channels + channels]
        for z in range(zones):
            sums = active[z * width : z * width + channels]
            for c in range(channels):
                all_sums[c] += np.int32(sums[c])
    for index in range(entry.rows, entry.rows_to):
        row = rows[index]
        total_of_row = np.int64(0)
        for i in range(kinds * zones):
            total_of_row += per_zone[row.per_zone + i] * totals[i]
        if row.effective != NONE:
            for z in range(zones):
                sums = active[z * width : z * width + channels]
                factors = effective[row.effective + z * channels : row.effective + (z + 1) * channels]
                part = np.int64(0)
                for c in range(channels):
                    part += np.int64(factors[c]) * np.int64(sums[c])
                total_of_row += part
        found[row.target] += total_of_row


@machine_code
def run(
    start: int,
    stop: int,
    codes: Any,  # (B, C * P) int32
    steps: Any,
    tiles: Any,
    taps: Any,
    tables_8: Any,
    tables_16: Any,
    weights: Any,
    theta_8: Any,  # int16: thresholds of sums of tables_8
    theta_16: Any,  # int32: of sums of tables_16, and of sums that are no product's
    theta_float: Any,
    flip: Any,
    base: Any,
    sizes: Any,  # levels, sums, patterns, floats: numbers that a sample needs
    kept: Any,  # (B, ...) int32
    entries: Any,
    runs: Any,
    rows: Any,
    per_zone: Any,
    effective: Any,
    found: Any,  # (B, counts) int64
    by_channel: Any,  # (B, channels) int32
    histogram: Any,  # (B, levels) int64
) -> None:
    """Run samples start..stop."""
    levels, sums = np.zeros(sizes[0], np.uint8), np.zeros(sizes[1], np.int32)
    bits, image = np.zeros(sizes[2], np.uint16), np.zeros(sizes[3], np.float32)
    active, met = np.zeros(sizes[4], np.uint16), np.zeros(256 * sizes[5], np.int32)
    totals = np.zeros(3 * sizes[5], np.int64)
    for b in range(start, stop):
        for index in range(len(steps)):
            step = steps[index]
            kind = step.kind
            small, wide = levels[step.in_at :], sums[step.in_at :]
            if kind == LOOK_UP_8:
                patterns(small, step, bits[: step.image])
                by_tables(bits, step, tiles, taps, tables_8, theta_8, levels, sums)
            elif kind == LOOK_UP_16:
                patterns(small, step, bits[: step.image])
                by_tables(bits, step, tiles, taps, tables_16, theta_16, levels, sums)
            elif kind == MULTIPLY:
                if step.in_wide:
                    floats(wide, step, image[: step.image])
                else:
                    floats(small, step, image[: step.image])
                by_products(image, step, tiles, taps, weights, theta_float, levels, sums)
            elif kind == THRESHOLD:
                if step.in_wide:
                    compare(wide, step, theta_16, flip, base, levels[step.out_at :])
                else:
                    compare(small, step, theta_16, flip, base, levels[step.out_at :])
            elif kind in (MAX_POOL, SUM_POOL):
                if step.in_wide:
                    pool(wide, step, sums[step.out_at :])
                elif step.out_wide:
                    pool(small, step, sums[step.out_at :])
                else:
                    pool(small, step, levels[step.out_at :])
            elif kind == ADD:
                if step.in_wide and step.second_wide:
                    nonzero = add(sums, sums, step, sums)
                elif step.in_wide:
                    nonzero = add(sums, levels, step, sums)
                elif step.second_wide:
                    nonzero = add(levels, sums, step, sums)
                else:
                    nonzero = add(levels, levels, step, sums)
                if step.adds != NONE:
                    found[b, step.adds] = nonzero
            elif kind == CODES:
                if step.out_wide:
                    take_codes(codes[b], step, sums[step.out_at :])
                else:
                    take_codes(codes[b], step, levels[step.out_at :])
            if step.kept != NONE:
                if step.out_wide:
                    keep(sums[step.out_at :], step, step.out_channels, kept[b, step.kept :])
                else:
                    keep(levels[step.out_at :], step, step.out_channels, kept[b, step.kept :])
            for entry in range(step.entry, step.entry_to):
                if step.out_wide:
                    count_values(
                        sums,
                        step.out_at,
                        step.out_stride,
                        step.out_channels,
                        entries[entry],
                        runs,
                        rows,
                        per_zone,
                        effective,
                        active,
                        totals,
                        met,
                        found[b],
                        by_channel[b],
                        histogram[b],
                    )
                else:
                    count_values(
                        levels,
                        step.out_at,
                        step.out_stride,
                        step.out_channels,
                        entries[entry],
                        runs,
                        rows,
                        per_zone,
                        effective,
                        active,
                        totals,
                        met,
                        found[b],
                        by_channel[b],
                        histogram[b],
                    )
