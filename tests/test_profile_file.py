"""Profiles from TOML files: what they may say, and what is said of a wrong one."""

import pytest

from maqd_snn import MaqdError
from maqd_snn.pricing import get_profile
from maqd_snn.profile_file import LARGEST_FILE, read_profile
from maqd_snn.profiles import Price
from maqd_snn.sram import Memories

HEAD = """
name = "mychip"
title = "My chip"
node = "22 nm"
voltage = "0.8 V"
graded = true
includes = "synaptic operations"
excludes = "all else"
"""
PRICE = """
[prices.synop_graded]
value = 0.45
unit = "nJ"
basis = "measured"
source = "our board"
"""


def write(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_file(tmp_path):
    text = (
        HEAD.replace("graded = true", 'graded = true\nfree = ["neuron_update"]\nscope = "memory"\nevent_driven = true')
        + PRICE
        + '[listed."a hop"]\nvalue = 3\nunit = "fJ"\nbasis = "simulated"\nsource = "x"\n'
        + "[memories]\naccess_bits = 32\nweight_bytes = 65536\nfactor = 0.5\n"
    )
    profile = get_profile(str(write(tmp_path, text)))
    assert profile.name == "mychip"
    assert dict(profile.prices) == {"synop_graded": Price(450.0, "measured", "our board")}
    assert dict(profile.listed) == {"a hop": Price(0.003, "simulated", "x")}
    assert profile.free == {"neuron_update"}
    assert (profile.scope, profile.model, profile.event_driven) == ("memory", "event-core", True)
    assert profile.memories == Memories(access_bits=32, weight_bytes=65536, factor=0.5)


def test_a_short_file(tmp_path):
    profile = read_profile(write(tmp_path, HEAD + PRICE))
    assert (profile.scope, profile.model, profile.memories) == ("chip", "prices", None)


WRONG = [
    (HEAD, "mine.toml: profile lacks 'prices'; it needs: name, title"),
    (HEAD + "[prices]\n" + PRICE.replace("value = 0.45\n", ""), "prices.synop_graded lacks 'value'"),
    (HEAD + PRICE.replace("0.45", "-0.45"), r"prices.synop_graded.value must be a finite number, 0 or more, got -0.45"),
    (HEAD + PRICE.replace("0.45", "nan"), "prices.synop_graded.value must be a finite number, 0 or more, got nan"),
    (HEAD + PRICE.replace("0.45", "inf"), "prices.synop_graded.value must be a finite number"),
    (HEAD + PRICE.replace("0.45", "true"), "prices.synop_graded.value must be a finite number, 0 or more, got True"),
    (
        HEAD + PRICE.replace("0.45", '"0.45"'),
        "prices.synop_graded.value must be a finite number, 0 or more, got '0.45'",
    ),
    (HEAD + PRICE.replace('"nJ"', '"kJ"'), "unknown unit in prices.synop_graded 'kJ'.*fJ, mJ, nJ, pJ, uJ"),
    (HEAD + PRICE.replace('"nJ"', "3"), "unknown unit in prices.synop_graded 3"),
    (HEAD + PRICE.replace('"measured"', '"guessed"'), "unknown basis in prices.synop_graded 'guessed'"),
    (HEAD + PRICE.replace('"our board"', '" "'), "prices.synop_graded.source must say where the figure stands"),
    (HEAD + PRICE + "volt = 3\n", "unknown key in prices.synop_graded 'volt'"),
    (HEAD + PRICE.replace("synop_graded", "synops"), "unknown operation in prices 'synops', did you mean 'synop_"),
    (HEAD + "[prices]\nadd = 3\n", "prices.add must be a table of value, unit, basis, source, got 3"),
    (HEAD + "prices = 3\n", "prices must be a table, got 3"),
    (HEAD.replace("graded = true", "graded = 1") + PRICE, "graded must be true or false, got 1"),
    (HEAD.replace('"mychip"', "3") + PRICE, "name must be a text, got 3"),
    (HEAD.replace('"mychip"', '""') + PRICE, "name must not be empty"),
    ("colour = 1\n" + HEAD + PRICE, "unknown key in profile 'colour'"),
    ('scope = "moon"\n' + HEAD + PRICE, "unknown scope 'moon'"),
    ("free = 3\n" + HEAD + PRICE, "free must be a list of operations, got 3"),
    ('free = ["lunch"]\n' + HEAD + PRICE, "unknown operation in free 'lunch'"),
    (HEAD + PRICE + "[memories]\naccess_bits = 16\n", "access_bits must be 64 or 32, got 16"),
    (HEAD + PRICE + "[memories]\nweight_bytes = 1.5\n", "memories.weight_bytes must be a whole number, got 1.5"),
    (HEAD + PRICE + '[memories]\nfactor = "2"\n', "memories.factor must be a number, got '2'"),
    (HEAD + PRICE + "[memories]\nfactor = -1\n", "factor of memory prices must be a finite number, 0 or more, got -1"),
    (HEAD + PRICE + "[memories]\ncolour = 1\n", "unknown key in memories 'colour'"),
    ("name = \n", "is no TOML file: Invalid value"),
    ("[" * 5000, "is no TOML file"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_files(tmp_path, text, message):
    with pytest.raises(MaqdError, match=message):
        read_profile(write(tmp_path, text))


def test_files_that_are_none(tmp_path):
    with pytest.raises(MaqdError, match=r"there is no profile file '.*nowhere.toml'; give the path of a TOML file"):
        get_profile(str(tmp_path / "nowhere.toml"))
    with pytest.raises(MaqdError, match="there is no profile file"):
        read_profile(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MaqdError, match="is no TOML file"):
        read_profile(tmp_path / "bytes.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(MaqdError, match="too large for an energy profile"):
        read_profile(tmp_path / "large.toml")
