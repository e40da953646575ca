"""What the names of JetClass files say: part, number, official split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

Split = Literal["train", "val", "test"]

_NAME: Final = re.compile(r"(?P<part>[A-Za-z0-9]+)_(?P<number>\d+)\.(?:root|parquet)")
_FOLDER: Final = re.compile(r"(?P<split>train|val|test)_\d+M")
_SUFFIXES: Final = (".root", ".parquet")

_SPLITS: Final[dict[str, tuple[int, int, int]]] = {
    "Res2P": (200, 250, 300),
    "Res34P": (860, 1075, 1290),
    "QCD": (280, 350, 420),
}
"""Part of JetClass-II → one past the last file of train, val and test (arXiv:2405.12972)."""


@dataclass(frozen=True)
class FileName:
    """What the name of a file says.

    Attributes:
        part: ``Res2P``, ``Res34P``, ``QCD``; in JetClass the process, ``HToBB``; empty for a name
            of another form.
        number: Number of the file within its part, −1 for a name of another form.
        split: Split that the authors put the file in, empty for none.
    """

    part: str
    number: int
    split: str


def parse_name(path: str) -> FileName:
    """Read part, number and official split from the path of a file."""
    pure = PurePosixPath(path.partition("://")[2] or path)
    found = _NAME.fullmatch(pure.name)
    if found is None:
        return FileName("", -1, "")
    part, number = found["part"], int(found["number"])
    if part in _SPLITS:
        ends = zip(("train", "val", "test"), _SPLITS[part], strict=True)
        return FileName(part, number, next((name for name, end in ends if number < end), ""))
    folder = _FOLDER.fullmatch(pure.parent.name)
    return FileName(part, number, folder["split"] if folder else "")


def in_folder(path: str) -> list[str]:
    """Return the ROOT and Parquet files below a folder, sorted; a file as it is."""
    folder = Path(path)
    if "://" in path or not folder.is_dir():
        return [path]
    return sorted(str(file) for file in folder.rglob("*") if file.suffix in _SUFFIXES)
