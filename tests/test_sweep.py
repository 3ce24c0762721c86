"""A sweep: its space, its journal, workers that die, stop and come back, and what it refuses."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from maqd_snn import MaqdError
from maqd_snn.cli import main
from maqd_snn.sweeps import rows as words
from maqd_snn.sweeps.board import Board, hidden, open_storage
from maqd_snn.sweeps.journal import JournalFile
from maqd_snn.sweeps.owner import certainly_gone, this_process
from maqd_snn.sweeps.records import records_of, write_records
from maqd_snn.sweeps.rows import Row, hopeless, open_slots
from maqd_snn.sweeps.space import Axis, Space, Spec, difference, parse_axis, scaled_plan
from maqd_snn.training import get_recipe

pytest.importorskip("optuna")

TINY = ["digits", "--plan", "4-M-8-M", "--epochs", "2", "--images", "320"]
GRID = ["--vary", "act_states=2,4", "--vary", "weight_states=2,3"]


def small_spec(**fields):
    space = Space(get_recipe("digits"), (Axis("act_states", (2, 4)), Axis("weight_states", (2, 3))))
    return Spec(space, **fields)


def start(folder, *options, **popen):
    command = [sys.executable, "-m", "maqd_snn", "sweep", *TINY, *options, "--out", str(folder), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )


def finish(process):
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def rows_of(folder, name="digits"):
    return Board(str(folder / "journal.log"), name).rows()


def test_a_plan_is_scaled():
    assert scaled_plan("4-M-8-S", 1.5, 2) == "6-6-M-12-12-S"
    assert scaled_plan("1-M-3", 0.1, 1) == "1-M-1"


def test_a_space_has_all_its_points_in_order():
    space = Space(get_recipe("digits"), (parse_axis("act_states=2,none"), parse_axis("width=0.5,1")))
    assert list(space.grid()) == [{"act_states": a, "width": w} for a in (2, None) for w in (0.5, 1.0)]
    recipe = space.at({"act_states": 4, "width": 0.5})
    assert (recipe.act_states, recipe.plan) == (4, "16-32-M-64")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("act_states", "--vary expects FIELD=VALUE,VALUE,... or FIELD=LOW..HIGH, got 'act_states'"),
        ("states=2,3", "unknown field to vary 'states'"),
        ("name=a,b", "unknown field to vary 'name'"),
        ("act_states=two", "--act-states expects a whole number or 'none', got 'two'"),
        ("act_states=2,2", "--vary act_states names a value twice"),
        ("plan=a..b", "plan is no number; give its values"),
        ("lr=1..0.1", "expects a range low..high with low < high"),
        ("lr=0..1:log", "start it above 0"),
        ("width=-1", "--vary width expects numbers above 0, got '-1'"),
    ],
)
def test_a_wrong_axis_is_refused(text, message):
    with pytest.raises(MaqdError, match=message.replace("(", r"\(")):
        parse_axis(text)


def test_a_wrong_study_is_refused():
    with pytest.raises(MaqdError, match="a grid needs values, but lr has the range 0.1..0.3"):
        Spec(Space(get_recipe("digits"), (parse_axis("lr=0.1..0.3"),)))
    with pytest.raises(MaqdError, match="act_states is varied twice"):
        Space(get_recipe("digits"), (Axis("act_states", (2,)), Axis("act_states", (3,))))
    with pytest.raises(MaqdError, match="unknown objective 'speed'"):
        small_spec(objectives=("accuracy", "speed"))
    with pytest.raises(MaqdError, match="the objective cores needs a chip"):
        small_spec(objectives=("accuracy", "cores"))
    with pytest.raises(MaqdError, match="unknown sampler 'random'"):
        small_spec(sampler="random")


def test_a_study_is_read_as_it_was_written():
    spec = small_spec(prune=True, images=10)
    assert Spec.from_json(spec.to_json()) == spec
    assert difference(spec, spec) == ""
    other = replace(spec, space=replace(spec.space, recipe=get_recipe("mnist10k")))
    assert "dataset (digits there, mnist10k here)" in difference(spec, other)
    with pytest.raises(MaqdError, match="a study that this version cannot read"):
        Spec.from_json('{"space": 3}')


# The journal


def test_half_a_line_is_never_read_and_removed_by_the_next_writer(tmp_path):
    path = tmp_path / "journal.log"
    journal = JournalFile(path)
    journal.append_logs([{"a": 1}])
    with path.open("ab") as file:
        file.write(b'{"a": 2, "half')
    assert list(JournalFile(path).read_logs(0)) == [{"a": 1}]
    journal.append_logs([{"a": 3}])
    assert path.read_text() == '{"a":1}\n{"a":3}\n'
    assert list(journal.read_logs(1)) == [{"a": 3}]
    assert list(JournalFile(path).read_logs(0)) == [{"a": 1}, {"a": 3}]


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path):
    path = tmp_path / "journal.log"
    journal = JournalFile(path)
    journal.append_logs([{"a": 1}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError, match="bytes could be written; is the disk full"):
            journal.append_logs([{"b": "x" * 400}, {"b": "y" * 2000}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_text() == '{"a":1}\n'


def test_a_damaged_or_locked_journal_is_named(tmp_path):
    path = tmp_path / "journal.log"
    path.write_text('{"a":1}\nnonsense\n')
    with pytest.raises(MaqdError, match="is damaged: line 2 is no JSON object"):
        list(JournalFile(path).read_logs(0))
    for line, said in (
        ("[1,2]", "line 2 is no JSON object"),
        ('{"op_code":99}', "is damaged"),
        ('{"op_code":0}', "is damaged"),
    ):
        path.write_text('{"op_code":0,"worker_id":"w","study_name":"s","directions":[1]}\n' + line + "\n")
        with pytest.raises(MaqdError, match=said):
            open_storage(str(path))
    path.write_text('{"a":1}\n')
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl,sys,time; f=open(sys.argv[1],'a'); fcntl.flock(f,2); print(1,flush=True); "
         "time.sleep(60)", str(path)], stdout=subprocess.PIPE)  # fmt: skip
    holder.stdout.readline()
    try:
        with pytest.raises(MaqdError, match="has been locked by another process for 0.1 s"):
            JournalFile(path, lock_seconds=0.1)
    finally:
        holder.kill()
        holder.communicate()
    JournalFile(path)  # the system gave the lock back


def test_a_storage_that_cannot_be_used_is_named_without_its_password(tmp_path):
    with pytest.raises(MaqdError, match="cannot open the journal .*No such file or directory"):
        open_storage(str(tmp_path / "none" / "journal.log"))
    with pytest.raises(MaqdError, match="cannot be used: unable to open database file"):
        open_storage(f"sqlite:///{tmp_path}/none/a.db")
    pytest.importorskip("pg8000")
    with pytest.raises(MaqdError, match=r"'postgresql\+pg8000://me:\*\*\*@127.0.0.1:1/x' cannot be used") as caught:
        open_storage("postgresql+pg8000://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
    with pytest.raises(MaqdError, match="needs a driver that is not installed"):
        open_storage("oracle://me:secret@127.0.0.1/x")
    assert hidden("sqlite:///a@b.db") == "sqlite:///a@b.db"


# Trials


def test_a_process_that_is_gone_is_known_to_be():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = this_process().split(" ")
    with open(f"/proc/{process.pid}/stat") as file:
        started = file.read().rpartition(")")[2].split()[19]
    theirs = f"{mine[0]} {mine[1]} {process.pid} {started}"
    assert not certainly_gone(theirs)
    assert certainly_gone(f"{mine[0]} {mine[1]} {process.pid} {int(started) - 1}")  # another one of that number
    process.kill()
    process.communicate()
    assert certainly_gone(theirs)
    assert not certainly_gone(this_process())


def test_a_slot_is_given_up_after_three_lost_workers():
    rows = [Row(i, "0", words.LOST) for i in range(2)]
    assert open_slots(rows, ["0"]) == ["0"]
    assert open_slots([*rows, Row(2, "0", words.LOST)], ["0"]) == []
    assert open_slots([*rows, Row(2, "0", words.STOPPED)], ["0"]) == ["0"]


def test_hopeless_trials():
    done = [Row(i, str(i), words.DONE, curve=((1, 0.5 + i / 10, 10.0), (4, 0.9, 10.0))) for i in range(4)]
    assert "trial 1" in hopeless([(1, 0.55, 10.0)], done, 4, costs=True)
    assert hopeless([(1, 0.55, 9.0)], done, 4, costs=True) == ""  # cheaper: it may stand on the front
    assert hopeless([(1, 0.79, 10.0)], done, 4, costs=True) == ""  # as good as
    assert "below the median of 4" in hopeless([(1, 0.64, 10.0)], done, 4, costs=False)
    assert hopeless([(1, 0.64, 10.0)], done[:3], 4, costs=False) == ""
    assert hopeless([(1, 0.1, 10.0)], done, 8, costs=True) == ""  # too early
    assert hopeless([(4, 0.1, 10.0)], done, 4, costs=True) == ""  # finished anyway


@pytest.mark.parametrize("storage", ["journal.log", "sqlite:///{}/study.db"])
def test_a_board_gives_each_slot_to_one_worker_and_takes_it_from_the_dead(tmp_path, storage, monkeypatch):
    where = storage.format(tmp_path) if "://" in storage else str(tmp_path / storage)
    first = Board(where, "s", small_spec(twin=False))
    first.extend(None)
    second = Board(where, "s", small_spec(twin=False))
    second.extend(None)
    tasks = [board.claim(f"x/{i}") for i, board in enumerate((first, second, first, second))]
    assert sorted(task.slot for task in tasks) == ["0", "1", "2", "3"]
    assert first.claim("x/4") is None
    assert [dict(task.point) for task in sorted(tasks, key=lambda task: task.slot)] == list(first.spec.space.grid())

    first.done(tasks[0], {"accuracy": 0.5, "energy": 3.0})
    first.ended(tasks[1], words.SKIPPED, "too narrow")
    first.ended(tasks[2], words.STOPPED, "asked to")
    assert {row.outcome for row in first.tidy()} == {
        words.DONE,
        words.SKIPPED,
        words.STOPPED,
        words.RUNNING,
        words.WAITING,
    }

    # Killed between its result and the last word: the result counts.
    first._note(tasks[3].number, result={"accuracy": 0.7, "energy": 2.0}, values=[0.7, 2.0], outcome=words.DONE)
    monkeypatch.setattr("maqd_snn.sweeps.board.certainly_gone", lambda owner: True)
    rows = second.tidy()
    assert [row.result["accuracy"] for row in rows if row.outcome == words.DONE] == [0.5, 0.7]
    assert second._study.trials[tasks[3].number].values == [0.7, 2.0]  # the sampler hears of it, too
    again = second.claim("x/5")
    assert (again.slot, again.previous, again.point) == (tasks[2].slot, tasks[2].number, tasks[2].point)
    second.tidy()  # again "dies"
    assert second.rows()[again.number].outcome == words.LOST
    first.done(again, {"accuracy": 0.9, "energy": 1.0})  # it was only asleep: too late, and no error
    assert second.rows()[again.number].outcome == words.LOST

    # Two that make a trial for the same slot at the same moment: one of them is surplus.
    waiting = [row for row in second.tidy() if row.outcome == words.WAITING]
    assert len(waiting) == 1
    second._study.enqueue_trial(dict(waiting[0].point), user_attrs={"slot": waiting[0].slot})
    monkeypatch.undo()
    assert second.claim("x/6").number == waiting[0].number
    assert first.claim("x/7") is None
    assert [row.outcome for row in first.rows()][-1] == words.SURPLUS


def test_a_worker_elsewhere_is_taken_for_dead_when_its_heart_stands_still(tmp_path, monkeypatch):
    board = Board(str(tmp_path / "j.log"), "s", small_spec(twin=False))
    board.extend(1)
    task = board.claim("x/0")
    board._note(task.number, owner="elsewhere boot/ns 1 1")
    clock = [1000.0]
    board._looked = clock[0]
    monkeypatch.setattr("maqd_snn.sweeps.board.time.monotonic", lambda: clock[0])
    for seconds in (0, 59):
        clock[0] = 1000.0 + seconds
        assert board.tidy()[0].outcome == words.RUNNING
    board.beat(task, 2)
    clock[0] += 50
    assert board.tidy()[0].outcome == words.RUNNING
    clock[0] += 500  # this one was asleep itself: the other may have been, too
    assert board.tidy()[0].outcome == words.RUNNING
    for seconds, outcome in ((50, words.RUNNING), (11, words.LOST)):
        clock[0] += seconds
        assert board.tidy()[0].outcome == outcome
    assert board.rows()[1].outcome == words.WAITING


def test_another_space_is_refused_and_more_trials_extend(tmp_path):
    where = str(tmp_path / "j.log")
    Board(where, "s", small_spec()).extend(2)
    with pytest.raises(MaqdError, match=r"exists with another space: twin \(True there, False here\)"):
        Board(where, "s", small_spec(twin=False))
    with pytest.raises(MaqdError, match="holds no study 'other'; it holds: s"):
        Board(where, "other")
    with pytest.raises(MaqdError, match="there is no study in"):
        Board(str(tmp_path / "none.log"), "s")
    board = Board(where, "s")
    assert (len(board.slots), len(board.rows())) == (3, 3)
    board.extend(None)
    assert (len(board.slots), len(board.rows())) == (5, 5)
    board.extend(1)  # never fewer
    assert len(board.slots) == 5


def test_records_are_taken_over_once_each_and_what_failed_is_tried_again(tmp_path):
    spec, records = small_spec(), tmp_path / "records.json"
    result = {"accuracy": 0.5, "energy": 7.0}
    point = {"act_states": 2, "weight_states": 3}
    rows = [
        Row(0, words.TWIN, words.DONE, {}, {"accuracy": 0.9}),
        Row(1, "1", words.DONE, point, result, seconds=12.5, curve=((1, 0.5, 3.0),)),
        Row(2, "0", words.SKIPPED, {"act_states": 2, "weight_states": 2}, reason="too narrow"),
        Row(3, "2", words.FAILED, {"act_states": 4, "weight_states": 2}, reason="no memory"),
        Row(4, "3", words.RUNNING, {"act_states": 4, "weight_states": 3}),
    ]
    write_records(records, spec, rows)
    board = Board(str(tmp_path / "j.log"), "s", spec)
    assert board.adopt(records_of(records, spec)) == 3
    assert board.adopt(records_of(records, spec)) == 0
    board.extend(None)
    found = {row.slot: row for row in board.rows()}
    assert {slot: row.outcome for slot, row in found.items()} == {
        words.TWIN: words.DONE, "0": words.SKIPPED, "1": words.DONE, "2": words.WAITING, "3": words.WAITING
    }  # fmt: skip
    assert replace(found["1"], number=1) == rows[1]
    assert found["0"].reason == "too narrow"
    assert [trial.values for trial in board._study.best_trials] == [[0.5, 7.0]]  # the sampler knows them, too
    assert records_of(tmp_path / "none.json", spec) == []


def test_records_are_taken_over_by_a_study_that_has_begun_and_keep_what_others_wrote(tmp_path):
    spec, records = small_spec(twin=False), tmp_path / "records.json"
    board = Board(str(tmp_path / "j.log"), "s", spec)
    board.extend(None)  # every slot waits
    first = board.claim("a")
    assert first.slot == "0"
    board.ended(first, words.FAILED, "no memory")
    here = board.claim("a")
    elsewhere = [
        Row(7, str(slot), words.DONE, point, {"accuracy": 0.5}) for slot, point in enumerate(spec.space.grid())
    ]
    write_records(records, spec, elsewhere[:3])
    assert board.adopt(records_of(records, spec)) == 2  # not the one under way
    board.done(here, {"accuracy": 0.7, "energy": 1.0})
    assert board.claim("a").slot == "3"  # 2 waits no more
    write_records(records, spec, board.rows())
    write_records(records, spec, elsewhere[3:])  # of a study that has nothing else
    kept = {row.slot: row.result["accuracy"] for row in records_of(records, spec)}
    assert kept == {"0": 0.5, "1": 0.7, "2": 0.5, "3": 0.5}


def test_records_of_a_grid_that_has_grown_keep_their_points(tmp_path):
    small, records = small_spec(), tmp_path / "records.json"
    rows = [
        Row(0, str(slot), words.DONE, point, {"accuracy": slot / 10}) for slot, point in enumerate(small.space.grid())
    ]
    write_records(records, small, [*rows, Row(9, words.TWIN, words.DONE, {}, {"accuracy": 0.9})])
    large = replace(
        small, space=replace(small.space, axes=(parse_axis("act_states=2,3,4"), parse_axis("weight_states=3,2")))
    )
    points = list(large.space.grid())
    found = records_of(records, large)
    assert len(found) == 5
    for row in found:
        if row.slot != words.TWIN:
            assert points[int(row.slot)] == row.point == rows[round(10 * row.result["accuracy"])].point
    write_records(records, large, found[:1])
    assert len(records_of(records, large)) == 5
    for other in (
        replace(large, seed=3),
        replace(large, space=replace(large.space, axes=(parse_axis("act_states=2,3"),))),
    ):
        with pytest.raises(MaqdError, match="another space"):  # whose trials would be lost
            write_records(records, other, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point": {"act_states": 9, "weight_states": 3}}, "slot '1' has no point"),
        ({"result": {"accuracy": 0.5, "energy": "x"}}, "has the energy 'x'"),
        ({"result": {"accuracy": 0.5, "synops": float("nan")}}, "has the synops nan"),
        ({"point": {"foo": 2}}, "slot '1' has no point"),
        ({"point": {"act_states": 4, "weight_states": 3}}, "slot '1' has no point"),  # that of another slot
        ({"point": []}, "no table of its point"),
        ({"slot": "77"}, "slot '77' has no point"),
        ({"slot": "01"}, "slot '01' has no point"),
        ({"slot": "twin"}, "slot 'twin' has no point"),
        ({"slot": "0", "point": {"act_states": 2, "weight_states": 2}}, "two trials of one slot"),
        ({"result": {}}, "has the accuracy None"),
        ({"result": {"accuracy": 7.0}}, "has the accuracy 7.0"),
        ({"result": 5}, "no table of its point or its result"),
        ({"curve": 5}, "holds no records"),
        ({"curve": [[1, 2]]}, "holds no records"),
        ({"seconds": "x"}, "took 'x' seconds"),
        ({"reason": 5}, "with outcome"),
    ],
)
def test_records_that_were_changed_are_refused(tmp_path, change, message):
    spec, records = small_spec(), tmp_path / "records.json"
    rows = [
        Row(0, "0", words.SKIPPED, {"act_states": 2, "weight_states": 2}),
        Row(1, "1", words.DONE, {"act_states": 2, "weight_states": 3}, {"accuracy": 0.5}),
    ]
    write_records(records, spec, rows)
    assert len(records_of(records, spec)) == 2
    values = json.loads(records.read_text())
    values["rows"][1] |= change
    records.write_text(json.dumps(values))
    with pytest.raises(MaqdError, match=message):
        records_of(records, spec)


@pytest.mark.parametrize(("lr", "right"), [(0.05, True), (5.0, False), ("x", False), (None, False)])
def test_records_of_draws_lie_in_the_space(tmp_path, lr, right):
    spec = Spec(Space(get_recipe("digits"), (parse_axis("lr=0.01..0.3:log"),)), sampler="tpe")
    write_records(tmp_path / "r.json", spec, [Row(0, "4", words.DONE, {"lr": lr}, {"accuracy": 0.5})])
    if right:
        assert records_of(tmp_path / "r.json", spec)[0].point == {"lr": lr}
    else:
        with pytest.raises(MaqdError, match="slot '4' has no point"):
            records_of(tmp_path / "r.json", spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no records of a study"),
        ("[]", "holds no records of a study"),
        ("[" * 100_000, "holds no records of a study"),
        ('{"spec": {}, "rows": []}', "that this version cannot read"),
        ("SPEC [{}]", "holds no records of a study"),
        ('SPEC [{"slot": "0", "outcome": "running", "point": {}, "result": {}, "reason": "", "seconds": 1, '
         '"curve": []}]', "holds no records of a study"),
        ("OTHER []", r"another space: twin \(False there, True here\)"),
    ],
)  # fmt: skip
def test_records_that_are_none_are_named(tmp_path, text, message):
    path = tmp_path / "records.json"
    for name, spec in (("SPEC", small_spec()), ("OTHER", small_spec(twin=False))):
        text = text.replace(f"{name} ", f'{{"spec": {spec.to_json()}, "rows": ') + "}" * text.startswith(name)
    path.write_text(text)
    with pytest.raises(MaqdError, match=message):
        records_of(path, small_spec())


# Whole sweeps, in processes of their own


def test_a_killed_worker_loses_only_its_trial(tmp_path):
    process = start(tmp_path, *GRID, "--workers", "2", "--epochs", "4")
    until = time.monotonic() + 200
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        rows = rows_of(tmp_path) if (tmp_path / "journal.log").exists() else []
        running = [row for row in rows if row.outcome == words.RUNNING and row.owner]
        done = {row.number: row.result for row in rows if row.outcome == words.DONE}
        if done and running:
            break
        time.sleep(0.02)
    os.kill(int(running[0].owner.split(" ")[2]), signal.SIGKILL)
    code, out, errors = finish(process)
    assert code == 0, errors
    assert "was ended by SIGKILL; its trial will be done again" in errors
    assert "5/5 trials; 1 lost with their workers; best so far: accuracy" in out
    rows = rows_of(tmp_path)
    finished = {row.slot: row for row in rows if row.outcome == words.DONE}
    assert set(finished) == {"twin", "0", "1", "2", "3"}
    assert len([row for row in rows if row.outcome == words.DONE]) == 5
    assert all(rows[number].result == result for number, result in done.items())  # none was lost
    assert all(row.result["fold_mismatches"] == 0 for row in finished.values() if row.slot != "twin")
    assert not list(tmp_path.rglob("checkpoint*"))

    # The same command again has nothing to do.
    code, out, errors = finish(start(tmp_path, *GRID, "--workers", "1", "--epochs", "4"))
    assert code == 0, errors
    assert len(rows_of(tmp_path)) == len(rows)


def test_a_stopped_study_goes_on_and_skips_what_is_impossible(tmp_path):
    space = ["--vary", "plan=4-M-8-M,4-M-4-M-4-M-4-M-8,7-x", "--no-twin", "--epochs", "30"]
    process = start(tmp_path, *space)
    while not list(tmp_path.rglob("checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 128 + signal.SIGTERM
    assert errors.endswith("maqd sweep: stopped; the same command goes on\n")
    assert {row.outcome for row in rows_of(tmp_path)} == {words.STOPPED, words.WAITING}
    epochs = json.loads(next(tmp_path.rglob("recipe.json")).read_text())["epochs"]
    assert epochs == 30

    code, out, errors = finish(start(tmp_path, *space, "--json", str(tmp_path / "rows.json")))
    assert code == 0, errors
    assert "3/3 trials; 2 skipped as impossible" in out
    assert "plan=4-M-4-M-4-M-4-M-8 skipped: pool4 pools windows of (2, 2), but its input is only (1, 1)" in out
    assert "plan=7-x skipped: plan '7-x' has the step 'x'" in out
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    (done,) = [row for row in rows if row["outcome"] == words.DONE]
    assert done["result"]["epochs"] == 30
    # It went on where it was: an earlier attempt's folder became its own.
    stopped = [row["number"] for row in rows if row["outcome"] == words.STOPPED]
    assert sorted(path.name for path in (tmp_path / "trials").iterdir()) == [f"{done['number']:05d}"]
    assert stopped


def test_wrong_commands_are_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "nothing"]) == 2
    assert "unknown recipe 'nothing'" in capsys.readouterr().err
    assert main(["sweep", "digits", "--trials", "0"]) == 2
    assert "--trials must be at least 1, got 0" in capsys.readouterr().err
    assert main(["sweep", "digits", "--name", "a/b"]) == 2
    assert "a study needs a plain name, got 'a/b'" in capsys.readouterr().err
    assert main(["sweep", "digits", "--profile", "x"]) == 2
    assert "unknown energy profile 'x'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["sweep", "digits", "--out", str(tmp_path / "file")]) == 2
    assert "cannot create the folder" in capsys.readouterr().err


def small_files():
    """Let the system refuse to let a file grow beyond this, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_full_disk_ends_the_worker_and_not_the_study(tmp_path):
    space = ["--vary", "act_states=2,4", "--no-twin"]
    code, out, errors = finish(start(tmp_path, *space, preexec_fn=small_files))
    assert code == 1
    assert "maqd sweep: cannot write" in errors
    assert "2 trials are left, but no worker; the same command goes on" in errors
    rows = rows_of(tmp_path)
    assert {row.outcome for row in rows} == {words.STOPPED, words.WAITING}
    assert "cannot write" in next(row.reason for row in rows if row.outcome == words.STOPPED)
    code, out, errors = finish(start(tmp_path, *space))
    assert code == 0, errors
    assert "2/2 trials" in out


@pytest.mark.parametrize(("sampler", "first", "then"), [("tpe", 1, 2), ("nsga2", 2, 2)])
def test_samplers_draw_prune_and_extend(tmp_path, capsys, sampler, first, then):
    space = ["--sampler", sampler, "--no-twin", "--prune", "--objectives", "accuracy,synops"]
    axes = ["--vary", "lr=0.001..0.3:log", "--vary", "act_states=2..4", "--vary", "surrogate=triangle,rectangle"]
    for trials in sorted({first, then}):
        code, out, errors = finish(start(tmp_path, *space, *axes, "--trials", str(trials)))
        assert code == 0, errors
        assert f"{trials}/{trials} trials" in out
    rows = rows_of(tmp_path)
    assert {row.outcome for row in rows} <= {words.DONE, words.PRUNED}
    assert len({row.point["lr"] for row in rows}) == then
    assert all(0.001 <= row.point["lr"] <= 0.3 and row.point["act_states"] in (2, 3, 4) for row in rows)
    assert main(["sweep", *TINY, *space, *axes[:-2], "--out", str(tmp_path)]) == 2
    assert "exists with another space: surrogate (triangle,rectangle there, fixed here)" in capsys.readouterr().err
