"""The architecture that the modules' imports show: layers, file sizes and what an import of adjax costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "adjax"
MAX_LINES = 400

# From the bottom up. A row is a module, or a package and all in it; the most specific row counts. A module may import
# from its own layer and from those below.
LAYERS = (
    ("adjax.errors", "adjax.strict_json", "adjax.config", "adjax.zoo"),
    ("adjax.nn", "adjax.dsp", "adjax.kernels", "adjax.packed", "adjax.cache", "adjax.storage"),
    ("adjax.models", "adjax.losses"),
    (
        "adjax.train.state",
        "adjax.train.data",
        "adjax.train.parallel",
        "adjax.weights",
        "adjax.latent_statistics",
        "adjax.bitstream",
        "adjax.audio",
        "adjax.metrics",
        "adjax.picture",
    ),
    ("adjax.train.steps", "adjax.streaming", "adjax.torch_port"),
    ("adjax.train", "adjax.chunks", "adjax.files", "adjax.export", "adjax.benchmark", "adjax.live", "adjax.evaluate"),
    ("adjax.torch_runs", "adjax.report"),
    ("adjax", "adjax.cli", "adjax.__main__"),
)
STRANGERS = ("adjax.train", "adjax.streaming", "adjax.torch_port")  # none of them may import another
LEAVES = ("configs", "scripts", "tests")  # nobody imports them
HEAVY = {"jax", "jaxlib", "flax", "numpy", "scipy", "soundfile", "grain", "orbax", "tensorflow_datasets", "torch"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def prefix(name: str, rows: tuple[str, ...]) -> str | None:
    """Returns the longest of `rows` that is `name` or a package around it."""
    return max((row for row in rows if name == row or name.startswith(row + ".")), key=len, default=None)


def layer(name: str) -> int | None:
    row = prefix(name, tuple(row for rows in LAYERS for row in rows))
    # The top package's own row stands for its __init__ alone: a module that no other row names has no layer yet.
    if row is None or (row == "adjax" and name != "adjax"):
        return None
    return next(i for i, rows in enumerate(LAYERS) if row in rows)


def imports(name: str) -> Iterator[tuple[str, int]]:
    """Yields (module, line) for all that a module imports, at its top or inside functions and TYPE_CHECKING blocks."""
    path = MODULES[name]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            parent = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield (submodule if submodule in MODULES else source), node.lineno


def own_imports(name: str) -> Iterator[tuple[str, int]]:
    return ((target, line) for target, line in imports(name) if target.split(".")[0] == "adjax")


@pytest.mark.parametrize("name", MODULES)
def test_module_is_documented_and_small(name: str) -> None:
    """A file that one can read in a sitting, and that says what it is for, is what makes the code easy to change."""
    source = MODULES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), f"{MODULES[name]} has no docstring"
    lines = source.count("\n")
    assert lines <= MAX_LINES, f"{MODULES[name]} has {lines} lines; split it at {MAX_LINES}"
    assert name.rpartition(".")[2] != "utils", f"{MODULES[name]}: a helper lives with what it helps"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    """A layer knows only what lies below, so it can be read, tested and replaced without those above."""
    here = layer(name)
    assert here is not None, f"{name} stands in no row of LAYERS; add it where it belongs"
    for target, line in own_imports(name):
        where = f"{MODULES[name]}:{line} imports {target}"
        assert target in MODULES, f"{where}, which does not exist"
        there = layer(target)
        assert there is not None, f"{where}, which stands in no row of LAYERS"
        assert there <= here, f"{where}, which lies above it"
        ours, theirs = prefix(name, STRANGERS), prefix(target, STRANGERS)
        assert None in (ours, theirs) or ours == theirs, f"{where}: {ours} and {theirs} may not know each other"


@pytest.mark.parametrize("name", MODULES)
def test_foreign_imports(name: str) -> None:
    """The lowest layer must answer `adjax --help`; PyTorch and the leaves must not be needed to use adjax at all."""
    for target, line in imports(name):
        root = target.split(".")[0]
        where = f"{MODULES[name]}:{line} imports {target}"
        assert root not in LEAVES, f"{where}: nobody imports {root}"
        if layer(name) == 0:
            assert root == "adjax" or root in sys.stdlib_module_names, f"{where}: only the standard library may be used"
    for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
        named = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        torch = [module for module in named if module.split(".")[0] == "torch"]
        assert not torch, f"{MODULES[name]}:{node.lineno} imports torch at module level; import it where it is used"


def test_no_import_cycles() -> None:
    """Within a layer too the imports form an order: in a cycle no module could be understood before the others."""
    graph = {name: {target for target, _ in own_imports(name) if target != name} for name in MODULES if name != "adjax"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("statement", ["import adjax", "from adjax.cli import main; main(['--help'])"])
def test_light_start(statement: str) -> None:
    """`adjax --help` answers at once, which it cannot where a heavy package is imported on the way."""
    program = (
        "import sys\n"
        f"try:\n    {statement}\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.returncode == 0, result.stderr
