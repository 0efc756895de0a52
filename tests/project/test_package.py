"""The package as a whole: light to import, complete in its names, and no room looks upward."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

import stagevar
from stagevar.families.catalogue import FAMILIES

SOURCE = Path(stagevar.__file__).parent
HEAVY = ("torch", "transformers", "numpy", "PIL", "huggingface_hub")

ALLOWED = {
    "errors": set(),
    "quiet": set(),
    "threads": set(),
    "kernels": set(),
    "files": {"errors"},
    "failure": {"errors"},
    "untrusted": {"errors", "files"},
    "scenes": {"errors"},
    "photos": {"errors", "scenes"},
    "engine.grids": {"errors"},
    "engine.contract": {"errors", "engine.grids"},
    "engine.plan": {"errors", "engine.grids"},
    "engine.loop": {"errors", "files", "engine.grids", "engine.contract", "engine.plan"},
    "families": {"errors", "untrusted", "quiet", "scenes", "photos", "engine.grids", "engine.contract"},
    "parallel": {"errors", "engine.contract"},
    "loading": {"errors", "fields", "files", "untrusted", "quiet", "request", "engine", "families", "parallel"},
    "regression": set(),
    "fields": {"errors"},
    "saved": {"errors", "fields", "untrusted"},
    "profile": {"errors", "files", "saved", "engine.grids", "engine.plan"},
    "fit": {"errors", "files", "saved", "engine.grids"},
    "plans": {"errors", "files", "saved", "engine.grids", "engine.plan"},
    "accelerators": {"errors", "saved", "engine.grids", "engine.plan", "profile", "fit", "plans", "regression"},
    "registry": {"errors", "accelerators"},
    "listing": {"accelerators", "registry"},
    "machine": {"engine.contract"},
    "editing": {"errors", "engine.grids", "engine.contract"},
    "on_ray": {"errors"},
    "request": {"errors", "engine.contract", "engine.plan"},
    "calling": {"errors", "editing", "request"},
    "sizes": {"errors", "engine.grids", "engine.contract", "request"},
    "result": {"engine.grids", "engine.plan", "engine.loop"},
    "record": {"errors", "engine.loop", "calling"},
}
ALLOWED["prepared"] = {"errors", "engine", "accelerators", "editing", "registry", "request", "sizes"}
ALLOWED["drawing"] = ALLOWED["prepared"] | {"machine", "prepared", "result"}
ALLOWED["doors"] = ALLOWED["drawing"] | {"calling", "drawing"}
ALLOWED["memory"] = {"errors", "accelerators", "engine", "families", "loading", "request", "prepared"}
ALLOWED["loaded"] = {"errors", "engine", "loading", "memory", "parallel"}
ALLOWED["pipeline"] = ALLOWED["doors"] | {"families", "loading", "memory", "doors", "loaded", "parallel"}
ALLOWED["measure"] = {"pipeline", "files", "fit", "listing", "threads", "untrusted", "quiet", "scenes", "photos"}
ALLOWED["measure"] |= {"families", "plans", "profile", "regression", "saved"} | ALLOWED["pipeline"]
ALLOWED["cores"] = {"pipeline"}
ALLOWED["jobs"] = {"cores", "errors", "files", "on_ray", "request", "calling", "prepared", "drawing", "pipeline"}
ALLOWED["jobs"] |= {"record"}
ALLOWED["evaluation"] = {"errors", "files", "jobs", "measure", "record", "request"}
ALLOWED["ui"] = {"measure", "failure", *ALLOWED["measure"]}
ALLOWED["serve"] = {"cores", "on_ray", "pipeline", *ALLOWED["pipeline"]}
ALLOWED["cli"] = {"ui", "serve", "jobs", "evaluation", "record", *ALLOWED["ui"]}
"""The rooms that each room may import."""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_is_fast() -> None:
    code = "import time; t = time.perf_counter(); import stagevar; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


@pytest.mark.parametrize("code", ["import stagevar", "from stagevar.cli import run; run(['--help'])"])
def test_neither_import_nor_help_loads_anything_heavy(code: str) -> None:
    loaded = run_python(f"import sys\n{code}\nprint(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_the_package_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "stagevar", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"stagevar {stagevar.__version__}\n"


def test_every_public_name_resolves_and_is_listed_in_order() -> None:
    assert stagevar.__all__ == sorted(stagevar.__all__)
    assert dir(stagevar) == stagevar.__all__
    assert set(stagevar._HOMES) <= set(stagevar.__all__)
    for name in stagevar.__all__:
        assert getattr(stagevar, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        stagevar.no_such_name  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    assert stagevar.__version__ == version("stagevar")
    assert (SOURCE / "py.typed").exists()


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules of this package that a file imports when it runs, wherever in the file."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node)


def room(module: str) -> str | None:
    """The room of a dotted name; public names of the package belong to the room that defines them."""
    parts = module.split(".")
    if parts[0] != "stagevar" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    parts = stagevar._HOMES.get(parts[1], ".".join(parts[1:])).split(".")
    return ".".join(parts[:2] if parts[0] == "engine" else parts[:1])


def home(path: Path) -> str:
    """The room of a file."""
    return room(".".join(("stagevar", *path.relative_to(SOURCE).with_suffix("").parts))) or "stagevar"


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_room_imports_upward(path: Path) -> None:
    own = home(path)
    if own == "stagevar":
        allowed = {"errors", "kernels", "threads"} if path.stem == "__init__" else {"cli"}
    else:
        allowed = ALLOWED.get(own, set()) | {own}
    for module in imports(ast.parse(path.read_text())):
        target = room(module)
        assert target is None or {target, target.split(".")[0]} & allowed, f"{own} may not import {module}"


def test_no_family_imports_another() -> None:
    """What families share lies beside them; each family is a folder that could be taken away."""
    own = {path.parent.name for path in SOURCE.glob("families/*/network.py")}
    assert own == set(FAMILIES)
    for path in SOURCE.glob("families/*/*.py"):
        modules = [module.split(".") for module in imports(ast.parse(path.read_text()))]
        used = {parts[2] for parts in modules if parts[:2] == ["stagevar", "families"]}
        assert not used & (own - {path.parent.name}), path


def test_files_import_one_another_without_circles() -> None:
    names = {".".join(("stagevar", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in FILES}
    needs = {
        name: {
            known
            for module in imports(ast.parse(path.read_text()))
            for known in (module, module.rpartition(".")[0])
            if known in names and known != name
        }
        for name, path in names.items()
    }
    tuple(TopologicalSorter(needs).static_order())  # raises CycleError, which names the circle


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    for path in (*FILES, *Path(__file__).parents[2].glob("[tbre]*/**/*.py")):
        assert len(path.read_text().splitlines()) <= 320, path


def test_no_module_is_left_out_of_the_wheel() -> None:
    """Every folder with code is a package, so that an installed copy finds it."""
    for folder in {path.parent for path in SOURCE.rglob("*.py")}:
        assert (folder / "__init__.py").exists(), folder


def test_links_in_the_documents_lead_somewhere() -> None:
    root = Path(__file__).parents[2]
    for document in (root / "README.md", *root.glob("docs/**/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
