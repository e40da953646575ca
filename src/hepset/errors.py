"""The family of errors that hepset raises on purpose.

Every class is also the built-in it resembles, so that ordinary ``except`` clauses work. The
command line prints the message without a traceback and exits with `HepsetError.exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class HepsetError(Exception):
    """Base of all errors that hepset raises on purpose."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 1 failed while running, 2 wrong input."""

    def __str__(self) -> str:
        """Return the message itself, also where the built-in base would quote it."""
        return str(self.args[0]) if self.args else ""


class ConfigurationError(HepsetError, ValueError):
    """The command line or a configuration file is wrong."""

    exit_code = 2


class EventInfoError(ConfigurationError):
    """An event file does not describe an event."""


class ExpressionError(ConfigurationError):
    """A selection or derived-feature expression cannot be compiled or evaluated."""


class MissingColumnError(ExpressionError):
    """An expression names a column that the file at hand lacks; another file may have it."""


class UnknownComponentError(ConfigurationError, LookupError):
    """No installed plugin provides the component that was asked for."""


class PluginError(HepsetError, ImportError):
    """A plugin breaks a rule of the plugin interface, or its code cannot be imported."""


class PluginConflictError(ConfigurationError):
    """Two distributions provide a component of the same kind and name."""


class ReadError(HepsetError, OSError):
    """An input file cannot be read as what it was said to be."""

    exit_code = 2


class ContractError(HepsetError, ValueError):
    """Arrays do not obey the contract, or two contracts do not fit."""

    exit_code = 2


class DatasetError(HepsetError, ValueError):
    """A dataset directory is missing, incomplete, corrupt or of an unknown format."""

    exit_code = 2


class TrainingError(HepsetError, RuntimeError):
    """Training cannot start or go on."""


class ExportError(HepsetError, RuntimeError):
    """A model cannot be exported, or an exported model disagrees with its original."""


def closest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return the known names nearest to a misspelt one, nearest first."""
    names = sorted(set(known))
    folded = {candidate.casefold(): candidate for candidate in names}
    found = difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=0.6)
    return [folded[match] for match in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or an empty string."""
    found = closest(name, known, count=1)
    return f"; did you mean {found[0]!r}?" if found else ""
