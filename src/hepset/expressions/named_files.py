"""Files that expressions name: ``acceptance(jets.pt, 'spectrum.json')``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from hepset.expressions.functions import Function

__all__ = ["absolute_files", "may_name_files", "named_files"]


def named_files(document: object, functions: Mapping[str, Function]) -> list[str]:
    """Return the files that expressions name, sorted.

    Args:
        document: An expression, or JSON-ready data whose strings and keys may be expressions.
        functions: Functions of plugins by name; those of hepset read no files.
    """
    found: set[str] = set()
    for text in _strings(document):
        found |= {str(node.value) for node in _arguments(_line(text), functions)}
    return sorted(found)


def may_name_files(document: object) -> bool:
    """Whether a string of a document has quotes in it; only then plugins have to be asked."""
    return any("'" in text or '"' in text for text in _strings(document))


def absolute_files(text: str, functions: Mapping[str, Function], folder: Path) -> str:
    """Return an expression with absolute paths in the place of relative ones.

    Args:
        text: The expression; what is none is returned as it is.
        functions: Functions of plugins by name.
        folder: Where relative paths begin.
    """
    line = _line(text)
    changed = line.encode()
    for node in sorted(_arguments(line, functions), key=lambda node: -node.col_offset):
        path = Path(str(node.value)).expanduser()
        full = repr(str(path if path.is_absolute() else (folder / path).absolute()))
        changed = changed[: node.col_offset] + full.encode() + changed[node.end_col_offset :]
    return text if changed == line.encode() else changed.decode()


def _line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _strings(document: object) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, Mapping):
        for key, value in document.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(document, list | tuple):
        for item in document:
            yield from _strings(item)


def _arguments(line: str, functions: Mapping[str, Function]) -> list[ast.Constant]:
    """The arguments of a line of text, which may be no expression, that name files."""
    if not any(function.files for function in functions.values()):
        return []
    try:
        tree = ast.parse(line, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # Compiling it says what is wrong.
    return [
        argument
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in functions
        for position, argument in enumerate(node.args)
        if position in functions[node.func.id].files
        and isinstance(argument, ast.Constant)
        and isinstance(argument.value, str)
    ]
