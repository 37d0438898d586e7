"""Which module may import which, and other rules of the house that no reader should have to check."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The engine from the ground up: a module imports from lines above its own, and from nowhere else in the engine.
ENGINE = """
    errors
    types
    activations  initializers  packed  threads
    cells.base
    cells.rnn  cells.lstm  cells.gru
    cells
    kernels.tile  kernels.records  kernels.cache  kernels.emit  kernels.specs
    kernels.host  kernels.panels  kernels.functions  kernels.products  kernels.program
    kernels.advance  kernels.decimal
    kernels.json_text  kernels.json_numbers
    kernels.steps  kernels.rooms  kernels.phases
    kernels.library
    kernels.fused  kernels.text  kernels.skim
    kernels.stack
    kernels
    wrappers  catalog
    unroll  layouts.base  blueprint
    layer  readout  layouts.tensorflow  layouts.pytorch  layouts.keras  layouts.onnx
    layouts  front  forward  fusion
    unrolling
    assembly  describe  digest  passes
    stepping  sampling
    network  feeds
    generation
    gradients.tape
    gradients.steps  gradients.loss
    gradients.layers
    gradients.backward
    gradients.diagnostics
    gradients
    golden
    formats
    formats.base
    formats.protobuf  formats.safetensors  formats.config  formats.named
    formats.attached
    formats.resolve  formats.pytorch  formats.tensorflow.checkpoint  formats.tensorflow.object_graph
    formats.tensorflow.cells  formats.hdf5_child
    formats.tensorflow.reader
    formats.tensorflow
    formats.onnx.tensors
    formats.onnx.model
    formats.onnx.values
    formats.onnx.shapes  formats.onnx.recurrent
    formats.onnx.constants  formats.onnx.dense
    formats.onnx.operators
    formats.onnx.trace
    formats.onnx.outputs
    formats.onnx.probe
    formats.onnx.alone
    formats.onnx.reader
    formats.onnx
    formats.hdf5  formats.keras.activations  formats.keras.config  formats.keras.defaults
    formats.keras.archive  formats.keras.variables
    formats.keras.recurrent
    formats.keras.layers  formats.keras.weights
    formats.keras.reader
    formats.keras
    formats.files
    __init__
"""
# and the standard library; never a web framework, never app
ENGINE_STANDS_ON = {"numpy", "threadpoolctl", "google_crc32c", "llvmlite"}

#: Who may write code for LLVM, and so cannot be imported where that is not installed.
USES_LLVM = {
    f"rnn_engine.kernels.{name}"
    for name in [
        "emit",
        "functions",
        "products",
        "program",
        "advance",
        "steps",
        "decimal",
        "json_text",
        "json_numbers",
        "library",
    ]
}

#: Who may import pyarrow, which need not be installed, as soon as it is imported itself.
USES_ARROW = {"app.scoring.columns", "app.scoring.arrow_files"}

#: Arrows that app may not have: (from, to), each with all that is under it.
FORBIDDEN = [
    ("app.trees", "app"),
    ("app.codecs", "app.routes"),
    ("app.codecs", "app.main"),
    ("app.codecs", "app.jobs"),
    ("app.codecs", "app.registry"),
    ("app.codecs", "app.protocols"),
    ("app.protocols", "app.routes"),
    ("app.jobs", "app.protocols"),
    ("app.routes", "app.main"),
    ("app.routes", "numpy"),
    ("app.routes", "rnn_engine.network"),
    ("app.problems", "app.routes"),
    ("app.registry", "app.routes"),
    ("app.registry", "app.jobs"),
    ("app.uploads", "app.routes"),
    ("app.uploads", "app.registry.models"),
    ("app.offline", "app.routes"),
    ("app.console", "app"),
    ("app.progress", "app"),
    ("app.scoring", "app.routes"),
    ("app.scoring", "app.main"),
    ("app.scoring", "app.registry"),
    ("app.scoring", "app.progress"),
    ("app.scoring.computing", "app.scoring.files"),
    ("app.scoring.computing", "app.scoring.npz"),
    ("app.scoring.planning", "app.scoring.files"),
    ("app.scoring.npz", "app.scoring.files"),
    ("app.scoring.journal", "app.scoring.files"),
    ("app.scoring.arrow_files", "app.scoring.files"),
    ("app.jobs", "app.routes"),
    ("app.states", "app.jobs"),
    ("app.states", "app.routes"),
    ("app.tokens", "app.registry"),
    ("app.tokens", "app.routes"),
    ("app.streams", "app.routes"),
    ("app.streams", "app.open_streams"),
    ("app.streams", "starlette"),
    ("app.executor", "app.streams"),
    ("app.sockets", "app.streams"),
    ("app.sockets", "app.open_streams"),
    ("app.sockets", "app.executor"),
    ("app.sockets", "app.routes"),
    ("app.settings", "app"),
    ("app.keys", "app.problems"),
    ("app.keys", "app.keyring"),
    ("app.keyring", "app.problems"),
    ("app.rights", "app.routes"),
    ("app.rates", "app.routes"),
    ("app.guard", "app.routes"),
    ("app.front", "app.routes"),
    ("app.startup", "app.problems"),
    ("app.record", "app"),
    ("app.tallies", "app"),
    ("app.logs", "app.routes"),
    ("app.metrics", "app.routes"),
    ("app.watching", "app.routes"),
]

#: Who may make a Network, with all that is under it. The others are handed one.
MAKES_NETWORKS = {"app.registry", "app.executor", "app.cli"}

#: What the client has of its own house, and of others: it is installed where there is no server.
CLIENT_STANDS_ON = {"app.trees", "rnn_engine.types", "rnn_engine.formats.safetensors"}
CLIENT_NEEDS = {"anyio", "httpcore", "httpx", "numpy", "websockets"}

Graph = Mapping[str, Iterable[str]]


# -- the checks, as functions of a graph ------------------------------------------------------------------------------


def under(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def circle(graph: Graph) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; empty if there is none."""
    finished: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished or module not in graph:
            return []
        for imported in graph[module]:
            if found := search(imported, [*path, module]):
                return found
        finished.add(module)
        return []

    return next((found for module in graph if (found := search(module, []))), [])


def climbing(graph: Graph, table: str, package: str) -> list[str]:
    """Imports within a package from the same line of the table or a lower one, and modules that are not in it."""
    lines = {}
    for number, line in enumerate(table.split("\n")):
        lines |= {package if name == "__init__" else f"{package}.{name}": number for name in line.split()}
    wrong = [f"{module} is not in the table" for module in graph if under(module, package) and module not in lines]
    return wrong + [
        f"{module} imports {imported}, which does not stand above it"
        for module in lines.keys() & graph.keys()
        for imported in graph[module]
        if under(imported, package) and lines.get(imported, -1) >= lines[module]
    ]


def crossing(graph: Graph, forbidden: Iterable[tuple[str, str]]) -> list[str]:
    """Imports along a forbidden arrow."""
    return [
        f"{module} imports {imported}"
        for start, end in forbidden
        for module in graph
        for imported in graph[module]
        if under(module, start) and under(imported, end) and not under(imported, start)
    ]


# -- the packages as a graph ------------------------------------------------------------------------------------------


def parsed(package: str) -> dict[str, ast.Module]:
    """The syntax tree of every module of a package, by dotted name."""
    trees = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(), str(path))
    return trees


def imports(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """What each module imports, wherever in it the import stands. `from package import module` is the module."""
    return {module: imports_of(tree, trees) for module, tree in trees.items()}


def imports_of(tree: ast.Module, modules: Iterable[str]) -> set[str]:
    """What one module imports, of which `modules` are some."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
    return found


def imported_at_once(tree: ast.Module) -> set[str]:
    """What a module imports when it is imported itself, not in functions and not for type checkers alone."""
    return {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}


TREES = parsed("rnn_engine") | parsed("app")
GRAPH = imports(TREES)


def test_no_module_imports_itself_by_way_of_others():
    assert circle(GRAPH) == []


def test_the_engines_imports_run_one_way():
    assert climbing(GRAPH, ENGINE, "rnn_engine") == []


def test_the_engine_knows_nothing_of_the_web():
    used = {name.split(".")[0] for module in GRAPH if under(module, "rnn_engine") for name in GRAPH[module]}
    assert used - sys.stdlib_module_names - {"rnn_engine"} <= ENGINE_STANDS_ON


def test_what_needs_llvm_is_imported_only_where_that_is_known_to_be_there():
    """By each other; or in a function, which is called once llvmlite was found."""
    using = {module for module, names in GRAPH.items() if any(name.split(".")[0] == "llvmlite" for name in names)}
    assert using <= USES_LLVM
    for module in TREES.keys() - USES_LLVM:
        assert not USES_LLVM & imported_at_once(TREES[module]), module


def test_what_needs_pyarrow_is_imported_only_for_a_file_of_its_own():
    """By each other; or in a function, which is called for such a file."""
    for module, tree in TREES.items():
        if module not in USES_ARROW:
            at_once = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
            names = imports_of(at_once, TREES)
            assert not {name for name in names if name.split(".")[0] == "pyarrow" or name in USES_ARROW}, module


def test_the_app_has_none_of_the_forbidden_arrows():
    assert crossing(GRAPH, FORBIDDEN) == []


def test_the_client_knows_nothing_of_the_service():
    """Other than by what it answers."""
    used = {name for module in GRAPH if under(module, "app.client") for name in GRAPH[module]}
    ours = {name for name in used if under(name, "app") or under(name, "rnn_engine")}
    assert {name for name in ours if not under(name, "app.client")} == CLIENT_STANDS_ON
    assert {name.split(".")[0] for name in used - ours} - sys.stdlib_module_names == CLIENT_NEEDS
    for name in CLIENT_STANDS_ON:
        needed = {one.split(".")[0] for one in GRAPH[name]} - sys.stdlib_module_names - {"rnn_engine"}
        assert needed == {"numpy"}, name


def test_networks_are_made_in_few_places():
    makers = set()
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and under(module, "app"):
                called = ast.unparse(node.func)
                if called in ("Network", "Network.planned") or called.startswith("Network.from_"):
                    makers.add(module)
    assert {module for module in makers if not any(under(module, allowed) for allowed in MAKES_NETWORKS)} == set()


def test_imports_are_absolute():
    relative = [m for m, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert relative == []


# -- the checks can fail ----------------------------------------------------------------------------------------------


def test_a_circle_is_found_however_long():
    straight = {"a": ["b", "c"], "b": ["c", "os"], "c": []}
    assert circle(straight) == []
    assert circle(straight | {"c": ["a"]}) == ["a", "b", "c", "a"]
    assert circle({"a": ["b"], "b": ["b"]}) == ["b", "b"]


def test_an_import_from_the_same_line_or_from_below_is_found_and_so_is_an_unknown_module():
    table = "low\nmiddle  other\n__init__"
    fine = {"p.low": ["os"], "p.middle": ["p.low"], "p.other": ["numpy", "p.low"], "p": ["p.middle"]}
    assert climbing(fine, table, "p") == []
    assert climbing(fine | {"p.low": ["p.middle"]}, table, "p") == [
        "p.low imports p.middle, which does not stand above it"
    ]
    assert climbing(fine | {"p.other": ["p.middle"]}, table, "p") == [
        "p.other imports p.middle, which does not stand above it"
    ]
    assert climbing(fine | {"p.new": []}, table, "p") == ["p.new is not in the table"]


def test_a_forbidden_arrow_is_found_to_and_from_anything_under_its_ends():
    graph = {"app.codecs.json": ["app.routes.run"], "app.codecs2": ["app.routes"], "app.settings": ["app.main", "os"]}
    assert crossing(graph, [("app.codecs", "app.routes")]) == ["app.codecs.json imports app.routes.run"]
    assert crossing(graph, [("app.settings", "app")]) == ["app.settings imports app.main"]


def test_imports_are_seen_in_every_form_and_anywhere_in_a_module():
    source = "import os.path\nfrom p import b, name\ndef f():\n    from p.b import thing\n    import q as r"
    trees = {"p": ast.parse(""), "p.a": ast.parse(source), "p.b": ast.parse("")}
    assert imports(trees)["p.a"] == {"os.path", "p.b", "p", "q"}


# -- other rules ------------------------------------------------------------------------------------------------------

FILES = sorted(path for package in ("rnn_engine", "app") for path in (ROOT / package).rglob("*.py"))


def test_there_are_files_to_check():
    assert {"rnn_engine/unroll.py", "app/main.py"} <= {str(path.relative_to(ROOT)) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_400_lines(path):
    lines = path.read_text().count("\n")
    assert lines <= 400


@pytest.mark.parametrize("module", TREES)
def test_a_users_mistake_is_no_assertion(module):
    assert [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, ast.Assert)] == []


@pytest.mark.parametrize("module", TREES)
def test_every_public_function_and_class_has_a_docstring(module):
    public = [
        node
        for node in TREES[module].body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    assert [f"{node.name}, line {node.lineno}" for node in public if ast.get_docstring(node) is None] == []


#: Who may ask what time of day it is, and what for.
ASKS_THE_WALL_CLOCK = {
    "app/registry/store.py",  # how old a file is, by the times that its file system gives it
    "app/registry/imports.py",  # when a model was registered
    "app/protocols/statistics.py",  # when a model was last asked
    "app/watching.py",  # when a request was answered, in its line of the log
    "app/traces.py",  # when a request came, in its trace
}


def test_durations_are_not_measured_on_a_clock_that_jumps():
    """time.time() and datetime.now() go back or ahead when somebody sets the clock; time.monotonic() does not."""
    asking = set()
    for path in [*ROOT.glob("app/**/*.py"), *ROOT.glob("rnn_engine/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            wall = isinstance(node, ast.Attribute) and node.attr in ("time", "time_ns", "now", "utcnow", "today")
            imported = isinstance(node, ast.ImportFrom) and node.module == "time"
            if imported and {name.name for name in node.names} & {"time", "time_ns"}:
                asking.add(path.relative_to(ROOT).as_posix())
            if wall and isinstance(node.value, ast.Name) and node.value.id in ("time", "datetime", "date"):
                asking.add(path.relative_to(ROOT).as_posix())
    assert asking == ASKS_THE_WALL_CLOCK
