"""The README's code runs as it stands, and what it says of the project is so."""

import re
from pathlib import Path

import pytest

from maqd_snn.training import RECIPES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_code_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    accuracy, synops = map(float, capsys.readouterr().out.splitlines()[0].split())
    assert accuracy > 0.5
    assert synops > 0
    assert {path.name for path in tmp_path.iterdir()} == {"net.h5", "net.nir"}


def test_the_command_lines_parse():
    from maqd_snn.cli import make_parser

    lines = [line.split("#")[0] for line in re.findall(r"^(maqd .*)$", README, flags=re.M)]
    commands = [part.split() for line in lines for part in line.split("|")]
    assert len(commands) >= 6
    for words in commands:
        assert words[0] == "maqd"
        make_parser().parse_args(words[1:])


def test_every_recipe_and_linked_file_exists():
    for name in RECIPES:
        assert f"`{name}`" in README
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (ROOT / target).is_file(), target


def test_the_results_come_from_the_script():
    table = README.split("<!-- results: benchmarks/readme.py -->")[1].split("<!-- end of results -->")[0]
    assert table.count("scores differ |") >= 2
    assert "FAILED" not in table


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_make_targets_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)
