"""Figures of how hepset is built, of this checkout or of another one.

``python benchmarks/structure.py [CHECKOUT]`` prints them as JSON; ``python -m benchmarks structure
--checkout OLD`` tabulates several. Nothing here imports hepset before the paths are set, so that
an older commit can be measured with the packages of this environment.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

EVENTS = 400
_FUNCTION = 0x1  # CO_OPTIMIZED: set for functions, not for bodies of modules and classes
_DEPTH = 3


# --- what is written down ---------------------------------------------------------------------


def packages(checkout: Path) -> dict[str, Path]:
    """Return the import name and the folder of the core and of every plugin."""
    projects = sorted(checkout.glob("src/hepset_plugins/*/pyproject.toml"))
    plugins = {f"hepset_{path.parent.name}": path.parent for path in projects}
    return {"hepset": checkout / "src", **plugins}


def lines(folder: Path) -> int:
    """Count the lines of all Python files and templates below a folder."""
    return sum(
        len(path.read_bytes().splitlines())
        for path in folder.rglob("*")
        if path.suffix in {".py", ".pyi", ".j2", ".html", ".css"}
    )


@dataclass
class Imports:
    """Modules that each module of a package imports: at once, inside functions, for types only."""

    at_once: dict[str, set[str]] = field(default_factory=dict)
    inside: dict[str, set[str]] = field(default_factory=dict)
    types: dict[str, set[str]] = field(default_factory=dict)

    def knots(self, *kinds: str) -> list[list[str]]:
        """Return the groups of modules that import each other in a circle, largest first."""
        graph = {
            name: set().union(*(getattr(self, kind)[name] for kind in kinds))
            for name in self.at_once
        }
        return sorted((k for k in components(graph) if len(k) > 1), key=lambda k: (-len(k), k))


def imports(folder: Path, package: str) -> Imports:
    """Read the imports of every module; names of a package are followed to where they are."""
    trees: dict[str, ast.Module] = {}
    public: dict[str, dict[str, str]] = {}
    for path in sorted((folder / package).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if parts[-1] == "__init__":
            stub = path.with_suffix(".pyi")
            trees_of = [tree, *([ast.parse(stub.read_text())] if stub.exists() else [])]
            public[".".join(parts[:-1])] = _exported(trees_of, ".".join(parts[:-1]))
        else:
            trees[".".join(parts)] = tree

    def module_of(base: str, name: str) -> str | None:
        for _ in range(5):
            if f"{base}.{name}" in trees:
                return f"{base}.{name}"
            if base in trees:
                return base
            if name not in public.get(base, {}):
                return None
            base = public[base][name]
        return None

    found = Imports()
    for module, tree in trees.items():
        kinds: dict[str, set[str]] = {"at_once": set(), "inside": set(), "types": set()}
        for kind, node in _import_nodes(tree):
            for base, name in _named(node, module):
                other = module_of(base, name)
                if other is not None and other != module:
                    kinds[kind].add(other)
        found.at_once[module] = kinds["at_once"]
        found.inside[module] = kinds["inside"]
        found.types[module] = kinds["types"]
    return found


def _exported(trees: Iterable[ast.Module], package: str) -> dict[str, str]:
    names = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                base = f"{package}.{node.module}" if node.level else node.module
                names |= {alias.asname or alias.name: str(base) for alias in node.names}
    return names


def _import_nodes(tree: ast.AST, kind: str = "at_once") -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield kind, node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _import_nodes(ast.Module(node.body, []), "types")
            yield from _import_nodes(ast.Module(node.orelse, []), kind)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _import_nodes(node, "inside" if kind == "at_once" else kind)
        else:
            yield from _import_nodes(node, kind)


def _named(node: ast.stmt, module: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            base, _, name = alias.name.rpartition(".")
            yield base, name
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = module.split(".")[: -node.level]
            base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            yield base, alias.name


def components(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of a graph (Tarjan, SIAM J. Comput. 1, 146)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            start = stack.index(node)
            found.append(sorted(stack[start:]))
            del stack[start:]

    for node in graph:
        if node not in order:
            visit(node)
    return found


# --- what is called ---------------------------------------------------------------------------


class Trace:
    """Functions of hepset that are called while it is active, in every thread.

    Attributes:
        calls: Code object → how often it was called.
        handed: Code objects that were given or returned arrays (see `holds_arrays`).
        made: Class → how many instances were made.
    """

    def __init__(self, folder: Path, *, arrays: bool = False) -> None:
        """Watch functions whose file is below `folder`."""
        self.folder = str(folder) + os.sep
        self.arrays = arrays
        self.calls: Counter[CodeType] = Counter()
        self.handed: set[CodeType] = set()
        self.made: Counter[str] = Counter()

    def __enter__(self) -> Trace:
        """Begin."""
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        sys.setprofile(None)
        threading.setprofile(None)

    def _event(self, frame: FrameType, event: str, value: Any) -> None:
        if event not in {"call", "return"}:
            return
        code = frame.f_code
        mine = code.co_filename.startswith(self.folder)
        if event == "call" and code.co_name == "__init__" and code.co_argcount:
            kind = type(frame.f_locals.get(code.co_varnames[0]))
            if kind.__module__.split(".")[0].startswith("hepset"):
                self.made[kind.__name__] += 1
        if not mine or not code.co_flags & _FUNCTION:
            return
        if event == "call":
            self.calls[code] += 1
        if self.arrays and code not in self.handed:
            values = frame.f_locals.values() if event == "call" else (value,)
            if any(holds_arrays(each) for each in values):
                self.handed.add(code)

    def called(self, name: str) -> int:
        """How often functions of a name were called."""
        return sum(n for code, n in self.calls.items() if code.co_name == name)

    @property
    def functions(self) -> set[tuple[str, str]]:
        """File and qualified name of what was called; lambdas and generators count."""
        return {(code.co_filename, code.co_qualname) for code in self.calls}

    @property
    def steps(self) -> set[tuple[str, str]]:
        """File and qualified name of the functions that arrays went through."""
        named = (code for code in self.handed if not code.co_name.startswith("<"))
        return {(code.co_filename, code.co_qualname) for code in named}


def holds_arrays(value: object, depth: int = _DEPTH) -> bool:
    """Whether something is, or holds, an array of numbers with at least two elements."""
    kind = type(value)
    if kind.__module__.split(".")[0] in {"numpy", "torch", "pyarrow"}:
        if kind.__name__ in {"RecordBatch", "Table", "ListArray", "ChunkedArray"}:
            return True
        shape = getattr(value, "shape", None)
        number = getattr(value, "numel", None)
        size = number() if callable(number) else getattr(value, "size", 0)
        return isinstance(shape, tuple) and len(shape) > 0 and isinstance(size, int) and size > 1
    if depth == 0:
        return False
    if isinstance(value, dict):
        return any(holds_arrays(each, depth - 1) for each in list(value.values()))
    if isinstance(value, list | tuple):
        return any(holds_arrays(each, depth - 1) for each in value[:8])
    if hasattr(value, "__dataclass_fields__"):
        parts = [getattr(value, name, None) for name in value.__dataclass_fields__]
        return any(holds_arrays(each, depth - 1) for each in parts)
    return False


def document(folder: Path, epochs: int) -> dict[str, Any]:
    """Write a small Parquet file; return the run that learns from it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    counts = rng.integers(1, 6, EVENTS)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    columns = {
        f"jets_{name}": pa.ListArray.from_arrays(
            offsets, pa.array(rng.exponential(40, counts.sum()).astype(np.float32))
        )
        for name in ("pt", "mass")
    }
    columns["met_pt"] = pa.array(rng.exponential(30, EVENTS).astype(np.float32))
    columns["signal"] = pa.array(rng.integers(0, 2, EVENTS))
    pq.write_table(pa.table(columns), folder / "events.parquet")
    return {
        "name": "structure",
        "event": {
            "streams": {"jets": {"slots": 6, "order": "-pt", "features": ["pt", "mass", "share"]}},
            "globals": {"met": {"features": ["pt"]}},
            "targets": {"signal": {"kind": "classification", "classes": ["no", "yes"]}},
        },
        "read": {
            "reader": "parquet",
            "files": [str(folder / "events.parquet")],
            "columns": {"streams.jets.share": None},
        },
        "prepare": {
            "select": {"met": "met.pt > 1"},
            "derive": {"jets.share": "jets.pt / sum(jets.pt)"},
        },
        "model": {
            "backbone": {"name": "transformer", "width": 16, "depth": 1, "attention_heads": 2},
            "heads": {"signal": {"name": "classification", "target": "signal"}},
        },
        "train": {"epochs": epochs, "batch_size": 100},
        "execution": {"convert": {"workers": 1}, "train": {"threads": 1}},
        "output": str(folder / "run"),
    }


def functions(checkout: Path) -> dict[str, Any]:
    """Trace the conversion of a small file, its training, and the rest of the run."""
    from hepset import Run

    source = checkout / "src" / "hepset"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, _quiet():
        folder = Path(name)
        run = Run.from_yaml(document(folder, 1))
        with Trace(source) as prepare:
            run.prepare()
        with Trace(source) as train:
            run.train()
        with Trace(source) as rest:
            run.evaluate()
            run.export()
    found["functions called by prepare"] = len(prepare.functions)
    found["modules called by prepare"] = len({file for file, _ in prepare.functions})
    whole = (prepare, train, rest)
    found["calls of make_plan in a run"] = sum(trace.called("make_plan") for trace in whole)
    found["calls of create_head in a run"] = sum(trace.called("create_head") for trace in whole)
    found["splitters made in a run"] = sum(trace.made["Splitter"] for trace in whole)
    found["heads made in a run"] = sum(trace.made["ClassificationHead"] for trace in whole)
    # Once more with a look at what is handed on, which is slow.
    with tempfile.TemporaryDirectory() as name, _quiet():
        run = Run.from_yaml(document(Path(name), 1))
        with Trace(source, arrays=True) as prepare:
            run.prepare()
        with Trace(source, arrays=True) as train:
            run.train()
    found["functions that arrays pass, file to shard"] = len(prepare.steps)
    found["functions that arrays pass, shard to loss and weights"] = len(train.steps)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import logging
    import warnings

    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:  # noqa: PTH123  a device
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield
        logging.disable(logging.NOTSET)


def figures(checkout: Path) -> dict[str, Any]:
    """Return all figures of a checkout by what they are."""
    where = packages(checkout)
    sys.path[:0] = [str(folder) for folder in where.values()]
    found: dict[str, Any] = {
        "lines of the core": lines(where["hepset"] / "hepset"),
        "lines of the plugins": sum(
            lines(folder / name) for name, folder in where.items() if name != "hepset"
        ),
    }
    graph = imports(where["hepset"], "hepset")
    for what, kinds in (
        ("import cycles", ("at_once",)),
        ("import cycles, imports inside functions counted", ("at_once", "inside")),
        ("import cycles, imports for types counted too", ("at_once", "inside", "types")),
    ):
        found[what] = len(graph.knots(*kinds))
    found |= functions(checkout)
    found["cycles"] = graph.knots("at_once", "inside", "types")
    return found


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent]
    print(json.dumps(figures(target), indent=1))
