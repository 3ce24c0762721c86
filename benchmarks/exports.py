"""Every exporter's file in every runtime that reads it: trained networks, 1,000 real images, into docs/exports.md.

    maqd bench exports [--folder runs/exports] [--images 1000] [--environments DIR] [--quick]

Trains `mlp`, `vgg` and `resnet` on the digits with 2, 3, 4 and 16 activation states and 3 and 15 weight states, exports
each in every format, and verifies each file on the first images of the test and training scans. Networks, files and
records are kept in the folder, so that an interrupted run goes on where it was; the tables of docs/exports.md are
written from the records. `--environments DIR` also builds the environments of sinabs and Lava there (see
`environments.py`), and runs the NIR files in sinabs and the netx files in Lava, which takes most of the time: it
convolves in Python, one sample a step.
--quick: one network, 100 images, nothing is written to docs. Exit code 1 where anything differs.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch

from maqd_snn.benchmarks import environments
from maqd_snn.benchmarks.document import replace_between
from maqd_snn.datasets import load_splits
from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.integer import IntegerNetwork, load
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic import FORMATS, export, netx_verify, verify
from maqd_snn.neuromorphic.check import not_run
from maqd_snn.neuromorphic.check import record as record_of
from maqd_snn.neuromorphic.nir_events import write_nir_events
from maqd_snn.runs import NETWORK, fold_run, machine, open_run, train
from maqd_snn.training.config import override
from maqd_snn.training.recipes import get_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "exports.md"
BEGIN, END = "<!-- results: maqd bench exports -->", "<!-- end of results -->"
CANNOT_BEGIN, CANNOT_END = "<!-- cannot: maqd_snn.neuromorphic.FORMATS -->", "<!-- end of cannot -->"

PLANS = {"mlp": "48-48", "vgg": "12-16-M-24-M", "resnet": "8-12"}
# netx has a channel for each level of a graded spike, and Lava convolves channel by channel in Python.
PLANS_OF_16_STATES = {**PLANS, "vgg": "6-8-M-12-M"}
ACT_STATES = (2, 3, 4, 16)
WEIGHT_STATES = (3, 15)
EPOCHS = 2


def network(folder: Path, model: str, act_states: int, weight_states: int) -> IntegerNetwork:
    """Return the trained network of the folder; it is trained first where there is none."""
    if not (folder / NETWORK).is_file():
        plan = (PLANS_OF_16_STATES if act_states == 16 else PLANS)[model]
        changes = {"model": model, "plan": plan, "act_states": act_states, "weight_states": weight_states}
        recipe = override(get_recipe("digits"), {**changes, "epochs": EPOCHS, "augment": "none"})
        splits = load_splits(recipe.dataset)
        open_run(folder, recipe, resume=True, overwrite=False)
        fold_run(recipe, splits, train(recipe, splits, folder, resume=True, quiet=True), folder)
    return load(folder / NETWORK)


def images(count: int) -> torch.Tensor:
    """Return the first `count` of the test scans, then the training scans."""
    splits = load_splits("digits")
    return torch.cat([splits.test.codes, splits.train.codes])[:count]


def check(folder: Path, name: str, net: IntegerNetwork, codes: torch.Tensor) -> dict[str, Any]:
    """Export and verify in one format, or return the record that the folder holds of it."""
    kept = folder / f"{name}.record.json"
    if kept.is_file():
        record: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if record["network"] == fingerprint(net) and record["samples"] == len(codes):
            return record
    target = folder / FORMATS[name].file
    started = time.perf_counter()
    try:
        if name == "nir-events":  # which holds its samples
            write_nir_events(net, target, codes.numpy())
        else:
            export(net, target, name, overwrite=True)
    except MaqdError as error:
        if name != "netx":  # which has no branches; the others carry every network
            raise
        record = refused(net, name, len(codes), str(error))
        write_text(kept, json.dumps(record, indent=1))
        return record
    record = verify(target, net, codes).to_dict()
    record["seconds"] = round(time.perf_counter() - started, 1)
    write_text(kept, json.dumps(record, indent=1))
    return record


def refused(net: IntegerNetwork, name: str, samples: int, why: str) -> dict[str, Any]:
    """Return the record of a network that the format cannot express."""
    return {
        "format": name,
        "network": fingerprint(net),
        "runtime": "none",
        "ok": True,
        "checks": [not_run(name, "exporter", why).to_dict()],
        "samples": samples,
        "mismatches": 0,
        "scores": 0,
    }


def foreign(folder: Path, name: str, built: Path, net: IntegerNetwork, codes: torch.Tensor) -> None:
    """Run the network's file in the reader of that environment, and keep the record, unless it is there."""
    kept = folder / f"foreign-{name}.json"
    numbers = codes.numpy().astype("int64")
    if kept.is_file():
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record["network"] == fingerprint(net) and record["samples"] == len(numbers):
            return
    target = folder / FORMATS["netx" if name == "lava" else "nir"].file
    if name == "lava" and not target.is_file():
        return
    interpreter = environments.build(name, built)
    if name == "lava":
        with environ(netx_verify.VARIABLE, str(interpreter)):
            found = netx_verify.verify_netx(target, numbers, net.reference(numbers), net)[-1]
    else:
        found = environments.in_sinabs(interpreter, target, net, numbers)
    record = record_of(target, net, numbers, [found]).to_dict()
    write_text(kept, json.dumps({**record, "ok": found.ok or not (found.ran or found.failed)}, indent=1))
    print(f"{folder.name} {found.runtime}: {found.mismatches} of {found.scores} {found.problem}", flush=True)


@contextmanager
def environ(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def cannot_table() -> list[str]:
    """Return a table: what each format cannot express."""
    rows = [f"| {name} | {entry.cannot or '-'} |" for name, entry in FORMATS.items()]
    return ["| format | what it cannot express |", "|---|---|", *rows]


def by_network(records: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Return a table: a row for each network, a column for each format."""
    formats = list(dict.fromkeys(name for of in records.values() for name in of))
    lines = [f"| network | {' | '.join(formats)} |", "|---|" + "---|" * len(formats)]
    for title, of in records.items():
        cells = []
        for name in formats:
            ran = [entry for entry in of[name]["checks"] if entry["scores"]] if name in of else []
            wrong = sum(entry["mismatches"] for entry in ran)
            failed = any(entry["failed"] for entry in of[name]["checks"]) if name in of else False
            cells.append(f"{wrong} / {sum(e['scores'] for e in ran):,}{' FAILED' if failed else ''}" if ran else "-")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def by_runtime(records: Iterable[dict[str, Any]]) -> list[str]:
    """Return a table: a row for each format in each runtime, with versions and reasons.

    What holds no network to run was compared in values alone.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        for entry in record["checks"]:
            # A runtime that does not run says its name without a version.
            name = entry["runtime"].split(",")[0].split()[0] + entry["runtime"].partition(",")[2]
            row = rows.setdefault((record["format"], name), {"titles": set(), "why": {}, "ran": 0, "of": 0})
            row["of"] += 1
            if entry["scores"]:
                row["titles"].add(entry["runtime"])
                classes = entry["compared"] == "class scores"
                columns = ("scores", "mismatches") if classes else ("values", "wrong")
                for key, found in zip(columns, ("scores", "mismatches"), strict=True):
                    row[key] = row.get(key, 0) + entry[found]
                row["values"] = row.get("values", 0) + sum(layer["values"] for layer in entry["layers"])
                row["wrong"] = row.get("wrong", 0) + sum(layer["mismatches"] for layer in entry["layers"])
                row["ran"] += 1
                row["note"] = entry["note"]
            else:
                why = entry["problem"].split(", as in")[0]
                row["why"][why] = row["why"].get(why, 0) + 1
    lines = [
        "| format | runtime | networks | class scores that differ | values of layers that differ | remarks |",
        "|---|---|---|---|---|---|",
    ]
    for (form, name), row in rows.items():
        why = "; ".join(f"not run on {count}: {reason}" for reason, count in row["why"].items())
        remarks = "; ".join(text for text in (row.get("note", ""), why) if text)
        scores = f"{row['mismatches']} of {row['scores']:,}" if row.get("scores") else "-"
        values = f"{row['wrong']} of {row['values']:,}" if row.get("values") else "-"
        title = ", ".join(sorted(row["titles"])) or name
        lines.append(f"| {form} | {title} | {row['ran']} of {row['of']} | {scores} | {values} | {remarks} |")
    return lines


def wrong(record: dict[str, Any]) -> bool:
    """Whether anything in the record differs or failed."""
    return not record["ok"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/exports"), help="where networks and records are kept")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--environments", type=Path, help="where those of sinabs and Lava are, or are built")
    parser.add_argument("--quick", action="store_true", help="one network, 100 images, no page")
    parser.add_argument("--kept", action="store_true", help="only write the page, from the records that are there")
    parser.add_argument("--formats", default=",".join(FORMATS), help="joined by commas (default: all)")
    options = parser.parse_args(arguments)
    cases = [(m, a, w) for a in ACT_STATES for w in WEIGHT_STATES for m in PLANS]
    codes = images(100 if options.quick else options.images)
    records: dict[str, dict[str, dict[str, Any]]] = {}
    failed, missing = False, list[str]()
    for model, act_states, weight_states in cases[:1] if options.quick else cases:
        folder = options.folder / f"{model}-{act_states}-{weight_states}"
        if options.kept and not (folder / NETWORK).is_file():
            missing.append(f"`{model}` {act_states} / {weight_states}")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        net = network(folder, model, act_states, weight_states)
        weights = sum(op.weight.numel() for op in net.ops if hasattr(op, "weight"))
        of = records.setdefault(f"`{model}`, {act_states} / {weight_states} states, {weights:,} weights", {})
        for name in options.formats.split(","):
            if options.kept and not (folder / f"{name}.record.json").is_file():
                continue
            try:
                of[name] = check(folder, name, net, codes)
            except MaqdError as error:
                print(f"{folder.name} {name}: {error}")
                failed = True
                continue
            failed |= wrong(of[name])
            if options.environments and name in ("nir", "netx"):
                try:
                    foreign(folder, "lava" if name == "netx" else "sinabs", options.environments, net, codes)
                except MaqdError as error:
                    print(f"{folder.name} {name}: {error}")
                    failed = True
            print(f"{folder.name} {name}: {of[name]['mismatches']} of {of[name]['scores']} in {of[name]['runtime']}")
        for file in sorted(folder.glob("foreign-*.json")):
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["network"] == fingerprint(net):
                of[file.stem] = record
                failed |= wrong(record)
        if "foreign-lava" in of:  # it ran there: that it did not run here is no news
            of["netx"]["checks"] = [entry for entry in of["netx"]["checks"] if entry["runtime"] != "lava"]
    if not options.quick:
        where = machine()
        lines = [
            f"Made by `maqd bench exports` on {date.today()}, {where['system']}, {where['cores']} cores, Python "
            f"{where['python']}, torch {where['torch']}: networks trained for {EPOCHS} epochs on the digits, "
            f"{len(codes):,} scans each.",
            "",
            *by_runtime(record for of in records.values() for record in of.values()),
            "",
            "Class scores that differ, of those compared in all runtimes that ran the file:",
            "",
            *by_network(records),
            *([f"\nNot run yet: {', '.join(missing)}."] if missing else []),
        ]
        replace_between(PAGE, BEGIN, END, "\n".join(lines))
        replace_between(PAGE, CANNOT_BEGIN, CANNOT_END, "\n".join(cannot_table()))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"exports: {error}")
