"""The compact table for the terminal."""

from typing import Any

from maqd_snn.reporting.units import energy_text, quantity


def text_report(report: dict[str, Any]) -> str:
    """Return the report (the values of `report.json`) as lines of text: accuracy, SynOps, energy, verification."""
    simulation, recipe = report["simulation"], report["recipe"]
    samples, total, accuracy = simulation["samples"], simulation["total"], report["accuracy"]
    lines = [
        f"{recipe['name']}: {recipe['act_states']} activation states, {recipe['weight_states']} weight states, "
        f"{samples} test images, per image:",
        "",
        f"  {'layer':<16}{'op':<11}{'rate':>7}{'events':>10}{'SynOps':>10}{'effective':>11}{'dense MACs':>12}",
    ]
    for layer in simulation["layers"]:
        if not (layer["dense_macs"] or layer["spikes"] or layer["op"] == "Threshold"):
            continue
        rate = f"{layer['spikes'] / (layer['neurons'] * samples):.3f}" if layer["neurons"] else ""
        numbers = [layer[name] / samples for name in ("events", "synops", "effective_synops", "dense_macs")]
        events, synops, effective, dense = (quantity(number) if layer["dense_macs"] else "" for number in numbers)
        if layer["dense_macs"] and not layer["spiking"]:
            events = synops = effective = "-"
        lines.append(
            f"  {layer['name']:<16}{layer['op']:<11}{rate:>7}{events:>10}{synops:>10}{effective:>11}{dense:>12}"
        )
    totals = [quantity(total[name] / samples) for name in ("events", "synops", "effective_synops", "dense_macs")]
    lines += [
        f"  {'total':<16}{'':<11}{'':>7}{totals[0]:>10}{totals[1]:>10}{totals[2]:>11}{totals[3]:>12}",
        "",
        f"  accuracy     {_share(accuracy['test'])} on test, {_share(accuracy['validation'])} on validation",
        f"  SynOps       {quantity(total['synops'] / samples)} per image, and "
        f"{quantity(total['macs'] / samples)} dense MACs of layers that are fed no spikes",
    ]
    for name, entry in report["energy"].items():
        missing = len(entry["unpriced"])
        note = (
            f" ({energy_text(entry['priced_pj'])} priced; {missing} terms have no published price)" if missing else ""
        )
        lines.append(f"  energy       {name:<22}{energy_text(entry['total_pj'])}{note}")
    for baseline in report["baselines"]:
        lines.append(f"  baseline     {baseline['name']:<22}{energy_text(baseline['energy_pj'])}")
    check = report["provenance"].get("fold_check")
    if check:
        lines.append(
            f"  folding      {check['mismatches']} of {check['values']} values differ from model.eval() on "
            f"{check['samples']} images"
        )
    width = max([7, *(len(entry["format"]) + 1 for entry in report["exports"])])
    for entry in report["exports"]:
        check = entry["check"]
        if check is None:
            lines.append(f"  export       {entry['format']:<{width}}{entry['problem']}")
        else:
            verdict = "verified" if check["ok"] else "FAILED"
            lines.append(
                f"  export       {entry['format']:<{width}}{verdict}: {check['mismatches']} of {check['scores']} "
                f"{check.get('compared', 'class scores')} differ in {check['runtime']}"
            )
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
