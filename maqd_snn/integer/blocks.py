"""The innermost loops of the compiled program, as LLVM instructions on vectors: numba makes machine code of them.

Import this file where `maqd_snn.compiled.fast` says so, and nowhere else: it needs numba.

Axis letters: P output positions beside each other, T output channels of a tile.

A block computes P x T sums at once. It walks one list of offsets, the taps of the window, and at each of them adds a
row of T numbers for each of the P positions: in `look_up` the row that a table holds for four spikes together, in
`multiply` a row of weights times a value. The sums then become levels or are stored as they are.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

POSITIONS = 4
ENTRIES = 16  # rows of a table: the patterns of four spikes
UNROLLED = 2

INT64 = ir.IntType(64)
Builder = Any
Number = Any


def _whole(value: int) -> Number:
    return ir.Constant(INT64, value)


def _loop(builder: Builder, start: Number, stop: Number, step: int, carried: list[Number], body: Any) -> list[Number]:
    """Emit `for i in range(start, stop - step + 1, step): carried = body(i, carried)`; return [last i, *carried]."""
    before = builder.block
    test, inside, after = (builder.append_basic_block(name) for name in ("test", "inside", "after"))
    builder.branch(test)
    builder.position_at_end(test)
    i = builder.phi(INT64)
    i.add_incoming(start, before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    following = builder.add(i, _whole(step))
    builder.cbranch(builder.icmp_signed("<=", following, stop), inside, after)
    builder.position_at_end(inside)
    results = body(i, values)
    for phi, value in zip(values, results, strict=True):
        phi.add_incoming(value, builder.block)
    i.add_incoming(following, builder.block)
    builder.branch(test)
    builder.position_at_end(after)
    return [i, *values]


def _load(builder: Builder, pointer: Number, at: Number, kind: Any, size: int) -> Number:
    """Load numbers that lie beside each other, aligned as one of them is."""
    loaded = builder.load(builder.bitcast(builder.gep(pointer, [at]), kind.as_pointer()))
    loaded.align = size
    return loaded


def _store(builder: Builder, value: Number, pointer: Number, at: Number) -> None:
    where = builder.bitcast(builder.gep(pointer, [at]), value.type.as_pointer())
    builder.store(value, where).align = 1


def _splat(builder: Builder, value: Number, tile: int) -> Number:
    empty = ir.Constant(ir.VectorType(value.type, tile), ir.Undefined)
    one = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(ir.IntType(32), tile), None))


def _block(tile: int, table: bool) -> Callable[..., None]:
    """Return the function of one block for tiles of so many channels."""

    @intrinsic  # type: ignore[untyped-decorator]
    def block(
        context: Any,
        weight: Any,  # tables (count, 16, T) of int8 or int16, or weights (count, T) of float32, at `weight_from`
        weight_from: Any,
        x: Any,  # patterns * T (uint16), or values (float32)
        x_from: Any,  # of the first position; the next is `x_step` further
        x_step: Any,
        taps: Any,  # (count,): offsets from the position, at `taps_from`
        taps_from: Any,
        count: Any,
        limit: Any,  # rows that the type of the tables can add up
        theta: Any,  # (levels, T) at `theta_from`, in the type of the sums
        theta_from: Any,
        levels: Any,  # thresholds; 0: the sums are stored
        out_levels: Any,  # uint8
        out_sums: Any,  # int32
        out_from: Any,
        out_step: Any,
    ) -> Any:
        given = (
            weight, weight_from, x, x_from, x_step, taps, taps_from, count, limit, theta, theta_from, levels,
            out_levels, out_sums, out_from, out_step,
        )  # fmt: skip
        signature = types.void(*given)

        def codegen(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
            kinds = signature.args

            def pointer(index: int) -> Number:
                return context.make_array(kinds[index])(context, builder, value=arguments[index]).data

            rows, values, offsets, thresholds, level_out, sum_out = (pointer(k) for k in (0, 2, 5, 9, 12, 13))
            _, first, _, x_first, step, _, tap_first, many, most, _, theta_first, steps, _, _, out_first, out_next = (
                arguments
            )
            narrow = ir.VectorType(context.get_data_type(kinds[0].dtype), tile)
            wide = ir.VectorType(context.get_data_type(kinds[9].dtype), tile)
            narrow_size, wide_size = kinds[0].dtype.bitwidth // 8, kinds[9].dtype.bitwidth // 8
            bytes_, sums_ = ir.VectorType(ir.IntType(8), tile), ir.VectorType(ir.IntType(32), tile)
            rows = builder.gep(rows, [first])
            offsets = builder.gep(offsets, [tap_first])
            inputs = [
                builder.gep(values, [builder.add(x_first, builder.mul(step, _whole(p)))]) for p in range(POSITIONS)
            ]
            none = ir.Constant(narrow, None)

            def tap(j: Number, sums: list[Number]) -> list[Number]:
                offset = builder.zext(builder.load(builder.gep(offsets, [j])), INT64)
                row_from = builder.mul(j, _whole(tile * (ENTRIES if table else 1)))
                shared = None if table else _load(builder, rows, row_from, narrow, narrow_size)
                found = []
                for p in range(POSITIONS):
                    value = builder.load(builder.gep(inputs[p], [offset]))
                    if shared is None:
                        at = builder.add(row_from, builder.zext(value, INT64))
                        found.append(builder.add(sums[p], _load(builder, rows, at, narrow, narrow_size)))
                    else:
                        product = builder.fmul(_splat(builder, value, tile), shared, flags=("contract",))
                        found.append(builder.fadd(sums[p], product, flags=("contract",)))
                return found

            def taps_between(start: Number, end: Number) -> list[Number]:
                def several(j: Number, sums: list[Number]) -> list[Number]:
                    for u in range(UNROLLED):
                        sums = tap(builder.add(j, _whole(u)), sums)
                    return sums

                j, *sums = _loop(builder, start, end, UNROLLED, [none] * POSITIONS, several)
                return _loop(builder, j, end, 1, sums, tap)[1:]

            if table:
                totals = [cgutils.alloca_once_value(builder, ir.Constant(wide, None)) for _ in range(POSITIONS)]
                for total in totals:
                    builder.store(ir.Constant(wide, None), total)

                def chunk(start: Number, _: list[Number]) -> list[Number]:
                    rest = builder.sub(many, start)
                    size = builder.select(builder.icmp_signed("<", rest, most), rest, most)
                    end = builder.add(start, size)
                    for total, found in zip(totals, taps_between(start, end), strict=True):
                        builder.store(builder.add(builder.load(total), builder.sext(found, wide)), total)
                    return [end]

                _while_below(builder, many, chunk)
                sums = [builder.load(total) for total in totals]
            else:
                sums = taps_between(_whole(0), many)

            def store(p: int, value: Number, target: Number) -> None:
                _store(builder, value, target, builder.add(out_first, builder.mul(out_next, _whole(p))))

            with builder.if_else(builder.icmp_signed("==", steps, _whole(0))) as (as_sums, as_levels):
                with as_sums:
                    for p in range(POSITIONS):
                        if not table:
                            whole = builder.fptosi(sums[p], sums_)
                        else:
                            whole = sums[p] if wide == sums_ else builder.sext(sums[p], sums_)
                        store(p, whole, sum_out)
                with as_levels:

                    def compare(k: Number, counts: list[Number]) -> list[Number]:
                        at = builder.add(theta_first, builder.mul(k, _whole(tile)))
                        theta = _load(builder, thresholds, at, wide, wide_size)
                        reached = [
                            builder.icmp_signed(">=", s, theta) if table else builder.fcmp_ordered(">=", s, theta)
                            for s in sums
                        ]
                        return [builder.add(n, builder.zext(r, bytes_)) for n, r in zip(counts, reached, strict=True)]

                    zeros = [ir.Constant(bytes_, None)] * POSITIONS
                    counts = _loop(builder, _whole(0), steps, 1, zeros, compare)[1:]
                    for p in range(POSITIONS):
                        store(p, counts[p], level_out)
            return context.get_dummy_value()

        return signature, codegen

    return block  # type: ignore[no-any-return]


def _while_below(builder: Builder, stop: Number, body: Any) -> None:
    """Emit `i = 0; while i < stop: i = body(i)`."""
    before = builder.block
    test, inside, after = (builder.append_basic_block(name) for name in ("chunks", "chunk", "done"))
    builder.branch(test)
    builder.position_at_end(test)
    i = builder.phi(INT64)
    i.add_incoming(_whole(0), before)
    builder.cbranch(builder.icmp_signed("<", i, stop), inside, after)
    builder.position_at_end(inside)
    (following,) = body(i, [])
    i.add_incoming(following, builder.block)
    builder.branch(test)
    builder.position_at_end(after)


LANES = 16


@intrinsic  # type: ignore[untyped-decorator]
def pattern_16(context: Any, x: Any, x_from: Any, plane: Any, mask: Any, factor: Any, found: Any, at: Any) -> Any:
    """Write bit `plane` of 16 levels (uint8), those of `mask`, as four patterns (uint16) times `factor`."""
    signature = types.void(x, x_from, plane, mask, factor, found, at)

    def codegen(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        levels, out = (context.make_array(signature.args[k])(context, builder, value=arguments[k]).data for k in (0, 5))
        _, first, plane, mask, factor, _, target = arguments
        int8, int16 = ir.IntType(8), ir.IntType(16)
        read = _load(builder, levels, first, ir.VectorType(int8, LANES), 1)
        place = builder.shl(ir.Constant(int8, 1), builder.trunc(plane, int8))
        chosen = builder.and_(read, _splat(builder, place, LANES))
        bits = builder.bitcast(builder.icmp_unsigned("!=", chosen, ir.Constant(chosen.type, None)), int16)
        bits = builder.and_(bits, builder.trunc(mask, int16))
        four = ir.VectorType(int16, 4)
        parts = builder.lshr(_splat(builder, bits, 4), ir.Constant(four, [0, 4, 8, 12]))
        parts = builder.and_(parts, ir.Constant(four, [15] * 4))
        _store(builder, builder.mul(parts, _splat(builder, builder.trunc(factor, int16), 4)), out, target)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def reached_16(
    context: Any, z: Any, z_from: Any, theta: Any, theta_from: Any, theta_step: Any, levels: Any, flip: Any,
    flip_from: Any, base: Any, out: Any, at: Any,
) -> Any:  # fmt: skip
    """Write (n ^ flip) + base for the number n of thresholds that each of 16 sums reaches."""
    signature = types.void(z, z_from, theta, theta_from, theta_step, levels, flip, flip_from, base, out, at)

    def codegen(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        sums, thresholds, flips, bases, found = (
            context.make_array(signature.args[k])(context, builder, value=arguments[k]).data for k in (0, 2, 6, 8, 9)
        )
        _, first, _, theta_first, theta_next, steps, _, flip_first, _, _, target = arguments
        bytes_, wide = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(32), LANES)
        kind = ir.VectorType(context.get_data_type(signature.args[0].dtype), LANES)
        read = _load(builder, sums, first, kind, 1)
        if kind != wide:
            read = builder.zext(read, wide)

        def compare(k: Number, counts: list[Number]) -> list[Number]:
            theta = _load(builder, thresholds, builder.add(theta_first, builder.mul(k, theta_next)), wide, 4)
            return [builder.add(counts[0], builder.zext(builder.icmp_signed(">=", read, theta), bytes_))]

        count = _loop(builder, _whole(0), steps, 1, [ir.Constant(bytes_, None)], compare)[1]
        flipped = builder.xor(count, _load(builder, flips, flip_first, bytes_, 1))
        _store(builder, builder.add(flipped, _load(builder, bases, flip_first, bytes_, 1)), found, target)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def count_16(
    context: Any, x: Any, x_from: Any, line_step: Any, lines: Any, x_step: Any, number: Any, sums: Any, at: Any
) -> Any:
    """Add to 16 sums (uint16), for each of 16 channels, how many of `lines` times `number` positions hold no zero."""
    signature = types.void(x, x_from, line_step, lines, x_step, number, sums, at)

    def codegen(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        values, totals = (
            context.make_array(signature.args[k])(context, builder, value=arguments[k]).data for k in (0, 6)
        )
        _, first, next_line, many_lines, step, many, _, target = arguments
        kind = ir.VectorType(context.get_data_type(signature.args[0].dtype), LANES)
        wide = ir.VectorType(ir.IntType(16), LANES)

        def count_line(line: Number, before: list[Number]) -> list[Number]:
            start = builder.add(first, builder.mul(line, next_line))

            def count(k: Number, found: list[Number]) -> list[Number]:
                read = _load(builder, values, builder.add(start, builder.mul(k, step)), kind, 1)
                nonzero = builder.icmp_unsigned("!=", read, ir.Constant(kind, None))
                return [builder.add(found[0], builder.zext(nonzero, wide))]

            def several(k: Number, found: list[Number]) -> list[Number]:
                for u in range(4):
                    found = count(builder.add(k, _whole(u)), found)
                return found

            k, *found = _loop(builder, _whole(0), many, 4, before, several)
            return _loop(builder, k, many, 1, found, count)[1:]

        before = _load(builder, totals, target, wide, 2)
        _store(builder, _loop(builder, _whole(0), many_lines, 1, [before], count_line)[1], totals, target)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def add_16(
    context: Any, x: Any, x_from: Any, x_step: Any, y: Any, y_from: Any, y_step: Any, out: Any, out_from: Any,
    out_step: Any, positions: Any, parts: Any,
) -> Any:  # fmt: skip
    """Write x + y (int32) of `positions` times `parts` times 16 channels; return how many of both are not zero."""
    signature = types.int64(x, x_from, x_step, y, y_from, y_step, out, out_from, out_step, positions, parts)

    def codegen(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(ir.IntType(32), LANES)
        pointers = [context.make_array(signature.args[k])(context, builder, value=arguments[k]).data for k in (0, 3, 6)]
        kinds = [ir.VectorType(context.get_data_type(signature.args[k].dtype), LANES) for k in (0, 3)]
        firsts, steps = (arguments[1], arguments[4], arguments[7]), (arguments[2], arguments[5], arguments[8])

        def position(p: Number, counts: list[Number]) -> list[Number]:
            starts = [builder.add(first, builder.mul(p, step)) for first, step in zip(firsts, steps, strict=True)]

            def part(c: Number, found: list[Number]) -> list[Number]:
                at = [builder.add(start, builder.mul(c, _whole(LANES))) for start in starts]
                total, nonzero = ir.Constant(wide, None), found[0]
                for pointer, where, kind in zip(pointers[:2], at[:2], kinds, strict=True):
                    read = _load(builder, pointer, where, kind, 1)
                    there = builder.icmp_unsigned("!=", read, ir.Constant(kind, None))
                    nonzero = builder.add(nonzero, builder.zext(there, wide))
                    total = builder.add(total, read if kind == wide else builder.zext(read, wide))
                _store(builder, total, pointers[2], at[2])
                return [nonzero]

            return _loop(builder, _whole(0), arguments[10], 1, counts, part)[1:]

        counts = _loop(builder, _whole(0), arguments[9], 1, [ir.Constant(wide, None)], position)[1]
        number = _whole(0)
        for lane in range(LANES):
            one = builder.extract_element(counts, ir.Constant(ir.IntType(32), lane))
            number = builder.add(number, builder.zext(one, INT64))
        return number

    return signature, codegen


look_up_16, look_up_32, look_up_64 = (_block(tile, table=True) for tile in (16, 32, 64))
multiply_16 = _block(16, table=False)
