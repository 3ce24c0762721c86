"""The verdict of the mapper, for the terminal."""

from textwrap import wrap

from maqd_snn.neuromorphic.hardware.chip import KEYS, Chip
from maqd_snn.neuromorphic.hardware.costs import Traffic
from maqd_snn.neuromorphic.hardware.fitting import FAILS, UNKNOWN, Plan, Row, in_words

WIDTH = 118


def verdict(plan: Plan) -> str:
    """Return the verdict in one line."""
    host = f", with {', '.join(plan.host)} on the host" if plan.host else ""
    if plan.fits is False:
        figures = len(plan.problems)
        return f"does not fit {plan.chip.title}: {figures} limit{'s' * (figures > 1)} fail{'s' * (figures == 1)}"
    chips = f" of {plan.chips} chips" if plan.chips and plan.chips > 1 else ""
    if plan.fits is None:
        return (
            f"cannot tell whether it fits {plan.chip.title}: {len(plan.unknowns)} figures that matter are unknown; "
            f"every known limit holds, on {plan.cores} cores{chips}{host}"
        )
    return f"fits {plan.chip.title}, on {plan.cores} core{'s' * (plan.cores != 1)}{chips}{host}"


def text_plan(plan: Plan) -> str:
    """Return the answer of `fit` as lines: verdict, limits by layer, caveats."""
    lines = [verdict(plan), ""]
    for stage in plan.job.stages:
        rows = [row for row in plan.rows if row.layer == stage.name]
        size = " x ".join(map(str, stage.neuron_shape))
        if stage.name in plan.job.host:
            lines.append(f"  {stage.name} ({size}): on the host, since the cores {_why_host(plan, stage.spiking)}")
            continue
        pieces = len(plan.job.pieces.get(stage.name, []))
        cores = f", {pieces} core{'s' * (pieces != 1)}" if pieces and plan.chip.value("topology") != "single" else ""
        lines.append(f"  {stage.name} ({size}){cores}")
        lines += _rows(rows)
    rows = [row for row in plan.rows if not row.layer]
    lines += ["  network", *_rows(rows)] if rows else []
    if plan.chip.caveats:
        lines.append("")
        for caveat in plan.chip.caveats:
            lines += wrap(caveat, WIDTH, initial_indent="  note: ", subsequent_indent="        ")
    return "\n".join(lines)


def text_remedies(plan: Plan) -> str:
    """Return what would make it fit as lines."""
    if not plan.remedies:
        return "  no narrower, smaller or coarser form of this network was found to fit"
    lines = ["  would fit with (tried out; accuracy needs training again):"]
    for remedy in plan.remedies:
        lines.append(f"    {remedy.text}" + (f", {remedy.cores} cores" if (remedy.cores or 0) > 1 else ""))
    return "\n".join(lines)


def _why_host(plan: Plan, spiking: bool) -> str:
    return "cannot be fed its input codes" if spiking else "give out spikes only"


def _rows(rows: list[Row]) -> list[str]:
    marks = {FAILS: "FAILS", UNKNOWN: "?"}
    lines = []
    for row in rows:
        limit = "unknown" if row.limit is None else in_words(row.limit)
        need = in_words(row.need)
        note = f"  ({row.note})" if row.note else ""
        mark = marks.get(row.verdict, "ok")
        lines.append(f"    {mark:<6}{row.figure:<20}{need:>12} of {limit:<12}{note}".rstrip())
    return lines


def text_traffic(plan: Plan, cost: Traffic) -> str:
    """Return what the traffic costs as lines."""
    n, place = cost.sent.samples, cost.placement
    what = f"{n} test images" if cost.sent.measured else "no data: every unit sends one message"
    lines = [
        f"  traffic ({what}), per image:",
        f"    messages      {cost.messages / n:,.1f} between cores, {cost.local / n:,.1f} of these within a tile",
        f"    host          {cost.from_host / n:,.1f} messages from it, {cost.to_host / n:,.1f} to it",
        f"    copies        a spike goes to {cost.copies_mean:.2f} cores on average, to {cost.copies_max} at most",
    ]
    if cost.hops is not None:
        gap = (
            "" if place.gap is None else f"; no placement is below {(place.bound or 0) / n:,.1f} (gap {place.gap:.0%})"
        )
        order = "" if place.in_order is None else f", {place.in_order / n:,.1f} in order"
        lines.append(f"    hops          {cost.hops / n:,.1f}{order}{gap}")
        if cost.crossings:
            lines.append(f"    chip to chip  {cost.crossings / n:,.1f}")
    elif plan.chip.value("topology") == "mesh":
        lines.append("    hops          unknown, since the size of the mesh is")
    if cost.busiest_link:
        (x0, y0, x1, y1), number = cost.busiest_link
        lines.append(f"    busiest link  tile ({x0}, {y0}) to ({x1}, {y1}): {number / n:,.1f} messages")
    core = cost.busiest_core
    lines.append(f"    busiest core  core {core.slot} ({core.stage}): {core.synops / n:,.0f} synaptic operations")
    total = "unknown" if cost.energy_pj is None else f"{cost.energy_pj / n / 1000:,.3g} nJ"
    priced = f" ({cost.priced_pj / n / 1000:,.3g} nJ priced)" if cost.unpriced else ""
    lines.append(f"    energy        {total} of messages{priced}")
    lines += [f"                  no published price for {missing}" for missing in cost.unpriced]
    for layer in cost.layers:
        time = "unknown" if layer.bound_ns is None else f"{layer.bound_ns / 1000:,.1f} us"
        lines.append(
            f"    time          {layer.stage}: {time} ({layer.busiest_synops:,.0f} operations in its busiest core)"
        )
    price = plan.chip.value("synop_ns")
    each = "the time of one operation is unknown" if price is None else f"of operations alone, at {price:g} ns each"
    lines.append(f"                  {each} (maqd chips {plan.chip.name}); the time of messages is not added")
    return "\n".join(lines)


def text_chip(chip: Chip) -> str:
    """Return a chip's figures with their sources."""
    lines = [f"{chip.name}: {chip.title}", ""]
    for key, figure in chip.figures.items():
        value = "unknown" if figure.value is None else in_words(figure.value)
        lines.append(f"  {key} = {value} [{figure.tag}]")
        lines += wrap(f"{KEYS[key].text}", WIDTH, initial_indent="      ", subsequent_indent="      ")
        lines += wrap(f"source: {figure.source}", WIDTH, initial_indent="      ", subsequent_indent="      ")
    for caveat in chip.caveats:
        lines += ["", *wrap(caveat, WIDTH, initial_indent="  note: ", subsequent_indent="        ")]
    return "\n".join(lines)
