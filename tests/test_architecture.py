"""What importing the library costs, and the examples in its docstrings. Import directions are import-linter's."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

import maqd_snn
from maqd_snn import benchmarks

# Optional packages, and matplotlib's state machine: each is imported where it is used, never by the library itself.
LAZY = [
    "snntorch",
    "spikingjelly",
    "neurobench",
    "nir",
    "nirtorch",
    "onnx",
    "onnxruntime",
    "qonnx",
    "sklearn",
    "numba",
    "faery",
    "lightning_fabric",
    "tensorboard",
    "matplotlib.pyplot",
]

# In an editable installation two subpackages stand in folders of their own, where the parent's path does not lead.
PACKAGES = (maqd_snn, maqd_snn.neuromorphic, maqd_snn.datasets)


def module_names(packages: Sequence[ModuleType] = PACKAGES) -> list[str]:
    names = {package.__name__ for package in packages}
    for package in packages:
        names |= {found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")}
    return sorted(name for name in names if not name.endswith("__main__"))


MODULES = module_names()


def imported_by(statement: str) -> set[str]:
    """Run `statement` in a fresh interpreter and return the modules that it left imported."""
    script = f"import sys\n{statement}\nprint(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def test_the_library_is_free_of_optional_packages_and_warnings() -> None:
    modules = imported_by("import maqd_snn; maqd_snn.fold")
    assert "maqd_snn.folding" in modules
    assert "torch" in modules
    assert modules.isdisjoint(LAZY)


def test_the_command_line_can_answer_before_torch_is_there() -> None:
    assert "torch" not in imported_by("import maqd_snn.cli")


def test_every_public_name_is_there() -> None:
    assert {"build", "fold", "load", "datasets", "__version__"} <= set(maqd_snn.__all__) == set(dir(maqd_snn))
    for name in maqd_snn.__all__:
        assert getattr(maqd_snn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'folds'"):
        maqd_snn.folds  # noqa: B018


def test_this_check_sees_an_import() -> None:
    assert "xml.dom" in imported_by("import xml.dom.minidom")


def test_every_file_of_the_library_is_looked_at() -> None:
    files = {path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py")}
    stems = {name.rpartition(".")[2] for name in module_names()}
    assert {path.stem for path in files} - {"__init__", "__main__"} <= stems


def examples_of(name: str) -> list[doctest.DocTest]:
    """Return the docstrings of a module that have examples, found in its source, whatever decorates their objects."""
    module = importlib.import_module(name)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text and ">>>" in text:
            title = f"{name}.{getattr(node, 'name', '__doc__')}"
            found.append(doctest.DocTestParser().get_doctest(text, dict(vars(module)), title, module.__file__, 0))
    return found


@pytest.mark.parametrize("name", [*MODULES, *module_names([benchmarks])])
def test_docstring_examples_run(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for test in examples_of(name):
        assert test.examples, test.name
        report: list[str] = []
        results = doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=True)
        assert results.failed == 0, "".join(report)
        assert results.attempted == len(test.examples)


def test_there_are_examples_to_run() -> None:
    with_examples = {name for name in MODULES if examples_of(name)}
    assert {"maqd_snn.rounding", "maqd_snn.weights", "maqd_snn.folding", "maqd_snn.files"} <= with_examples
    assert len(with_examples) >= 12
