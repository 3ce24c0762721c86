"""A study on PostgreSQL: two workers share it, one is killed. Skipped where there is no server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maqd_snn.sweeps import rows as words
from maqd_snn.sweeps.board import Board

pytest.importorskip("optuna")
pytest.importorskip("pg8000")


def program(name):
    """Where PostgreSQL's program is: Debian keeps the server's out of the path."""
    found = shutil.which(name)
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(debian[-1]) if debian else None)


INITDB, PG_CTL, POSTGRES = (program(name) for name in ("initdb", "pg_ctl", "postgres"))
pytestmark = pytest.mark.skipif(not (INITDB and PG_CTL and POSTGRES), reason="PostgreSQL's server is not installed")


def as_a_user(folder):
    """What to start the server's programs with: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of an empty database on loopback."""
    # Not below pytest's own folder, which is closed to other users.
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    folder.chmod(0o755)
    inner = folder / "server"
    inner.mkdir()
    user = as_a_user(inner)
    environment = {**os.environ, "HOME": str(inner), "LC_ALL": "C"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = inner / "data"
    try:
        made = subprocess.run(
            [INITDB, "-D", data, "-U", "maqd", "--auth=trust", "--no-sync", "-E", "UTF8"],
            cwd=inner, env=environment, capture_output=True, text=True, **user,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"PostgreSQL makes no database here: {made.stderr.strip()[-300:]}")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
        started = subprocess.run(
            [PG_CTL, "-D", data, "-l", inner / "log", "-o", options, "-w", "-t", "120", "start"],
            cwd=inner, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user,
        )  # fmt: skip
        if started.returncode:
            pytest.skip(f"PostgreSQL does not start here: {(inner / 'log').read_text()[-300:]}")
        try:
            yield f"postgresql+pg8000://maqd:any@127.0.0.1:{port}/postgres", data, environment, user
        finally:
            subprocess.run([PG_CTL, "-D", data, "-m", "immediate", "stop"], cwd=inner, env=environment,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user)  # fmt: skip
    finally:
        shutil.rmtree(folder)


def test_two_workers_share_a_study_and_one_is_killed(server, tmp_path):
    url = server[0]
    command = [sys.executable, "-m", "maqd_snn", "sweep", "digits", "--plan", "4-M-8-M", "--epochs", "3",
               "--images", "320", "--vary", "act_states=2,4", "--vary", "weight_states=2,3",
               "--storage", url, "--out", str(tmp_path), "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until, board = time.monotonic() + 200, None
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
        if board is None:
            if not (tmp_path / "trials").exists():  # the first trial: study and tables are there
                continue
            board = Board(url, "digits")
        rows = board.rows()
        running = [row for row in rows if row.outcome == words.RUNNING and row.owner]
        done = {row.number: row.result for row in rows if row.outcome == words.DONE}
        if done and running:
            break
    os.kill(int(running[0].owner.split(" ")[2]), signal.SIGKILL)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "any@" not in out + errors  # no password is shown
    rows = board.rows()
    board.close()
    finished = [row for row in rows if row.outcome == words.DONE]
    assert sorted(row.slot for row in finished) == ["0", "1", "2", "3", "twin"]
    assert all(rows[number].result == result for number, result in done.items())
    assert [row.outcome for row in rows if row.outcome != words.DONE] == [words.LOST]
