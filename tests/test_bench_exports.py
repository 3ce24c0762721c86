"""`maqd bench exports` and `maqd bench schedules`: records kept and judged, readers in environments of their own."""

import dataclasses
import json
import stat
import sys

import numpy as np
import pytest

from maqd_snn.benchmarks import environments, exports, schedules
from maqd_snn.benchmarks.document import around
from maqd_snn.benchmarks.environments import Environment
from maqd_snn.errors import MaqdError
from maqd_snn.integer import load
from maqd_snn.neuromorphic import export
from maqd_snn.neuromorphic.unit_spikes import schedule_errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep's folder with networks of one epoch."""
    place = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "EPOCHS", 1)
        for act_states in (2, 3):
            (place / f"mlp-{act_states}-3").mkdir()
            exports.network(place / f"mlp-{act_states}-3", "mlp", act_states, 3)
    return place


def sweep(folder, *more):
    return exports.main(["--quick", "--folder", str(folder), "--formats", "json,hex", *more])


def test_records_are_kept_and_a_difference_in_one_fails_the_sweep(folder, capsys):
    assert sweep(folder) == 0
    assert "mlp-2-3 hex: 0 of 1000 in maqd-snn image reader, NumPy int64" in capsys.readouterr().out
    file = folder / "mlp-2-3" / "hex.record.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "seconds": -1}))
    assert sweep(folder) == 0
    assert json.loads(file.read_text())["seconds"] == -1  # kept: not verified again
    file.write_text(json.dumps({**record, "network": "another"}))
    assert sweep(folder) == 0
    assert json.loads(file.read_text())["network"] == record["network"]  # of another network: verified again
    wrong = {**record, "ok": False, "mismatches": 3}
    wrong["checks"] = [{**record["checks"][0], "mismatches": 3, "ok": False}]
    file.write_text(json.dumps(wrong))
    assert sweep(folder) == 1
    assert "mlp-2-3 hex: 3 of 1000" in capsys.readouterr().out
    file.write_text(json.dumps(record))


def test_a_network_that_netx_cannot_carry_is_a_row_with_the_reason(folder, monkeypatch):
    def refuse(*arguments, **options):
        raise MaqdError("no branches")

    net = load(folder / "mlp-2-3" / "network.h5")
    monkeypatch.setattr(exports, "export", refuse)
    (check,) = exports.check(folder / "mlp-2-3", "netx", net, exports.images(10))["checks"]
    assert (check["runtime"], check["problem"]) == ("exporter", "no branches")
    with pytest.raises(MaqdError, match="no branches"):
        exports.check(folder / "mlp-2-3", "c", net, exports.images(10))


def test_an_environment_that_cannot_be_built_says_why(tmp_path, monkeypatch):
    def build(**fields):
        made = Environment(**{"python": (sys.executable,), "installs": (), "imports": "numpy", **fields})
        monkeypatch.setattr(environments, "ENVIRONMENTS", {"reader": made})
        return environments.build("reader", tmp_path)

    with pytest.raises(MaqdError, match=r"needs python0\.1 on the PATH"):
        build(python=("python0.1",))
    with pytest.raises(MaqdError, match=r"cannot be built: ERROR: No matching distribution found for absent-reader"):
        build(installs=(("--no-index", "absent-reader"),))
    with pytest.raises(MaqdError, match="was built, but numpy cannot be imported"):
        build()
    assert build(imports="json") == tmp_path / "reader" / "bin" / "python"


def test_scores_of_another_environment_are_compared_one_by_one(folder, tmp_path):
    net, codes = load(folder / "mlp-2-3" / "network.h5"), exports.images(20).numpy().astype(np.int64)
    file = tmp_path / "network.nir"
    export(net, file, "nir")
    interpreter = tmp_path / "python"

    def run(line):
        text = (
            f"#!{sys.executable}\nimport sys\nimport numpy as np\nnames = sys.argv[3:]\n{line}\nprint('reader 1.0')\n"
        )
        interpreter.write_text(text)
        interpreter.chmod(interpreter.stat().st_mode | stat.S_IXUSR)
        return environments.in_sinabs(interpreter, file, net, codes)

    scores = tmp_path / "scores.npy"
    np.save(scores, net.reference(codes))
    good = run(f"np.save(names[2], np.load({str(scores)!r}))")
    assert (good.runtime, good.ok, good.mismatches, good.scores) == ("reader 1.0", True, 0, 200)
    bad = run(f"x = np.load({str(scores)!r}); x[3, 4] += 1; np.save(names[2], x)")
    assert (bad.ok, bad.mismatches) == (False, 1)
    failed = run("sys.exit('no such node')")
    assert (failed.ran, failed.failed) == (False, True)
    assert "fails on the file: no such node" in failed.problem


def test_the_exact_schedule_must_not_differ(folder, monkeypatch, capsys):
    monkeypatch.setattr(schedules, "WEIGHT_STATES", 3)
    command = ["--quick", "--folder", str(folder)]
    assert schedules.main(command) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| `mlp`, 3 / 3", library, "0 of 2,120"] for library in ("snnTorch", "SpikingJelly")
    ]
    assert all("spike1 0.0 % (0)" in row for row in rows)  # the first layer hears everything at once

    def off(module, codes):
        first, *rest = schedule_errors(module, codes)
        return [dataclasses.replace(first, mismatches=1), *rest]

    monkeypatch.setattr(schedules, "schedule_errors", off)
    assert schedules.main(command) == 1
    assert "| 1 of 2,120 |" in capsys.readouterr().out


def test_the_page_says_what_each_format_cannot_express():
    before, after = around(exports.PAGE, exports.CANNOT_BEGIN, exports.CANNOT_END)
    table = exports.PAGE.read_text(encoding="utf-8").removeprefix(before).removesuffix(after).splitlines()[1:-1]
    assert table == exports.cannot_table()
