from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from hepset.errors import EventInfoError
from hepset.interfaces.dialect import Description, Dialect
from hepset.schema.event import EventInfo
from hepset.testing import check_dialect

DOCUMENT = {"SETS": {"jets": ["pt", "phi"]}, "LABELS": ["signal"]}


class ShoutingDialect(Dialect):
    """Sets and labels in capitals; conforms unless it has a flaw."""

    name = "shouting"
    flaw: ClassVar[str] = ""

    def __init__(self) -> None:
        self.calls = 0

    def recognises(self, document: Mapping[str, Any]) -> bool:
        if self.flaw == "takes all":
            return True
        if self.flaw == "takes hepset's":
            return "SETS" in document or "streams" in document
        return "SETS" in document and self.flaw != "takes nothing"

    def describe(
        self, document: Mapping[str, Any], *, where: str, parity: bool = False
    ) -> Description:
        unknown = sorted(set(document) - {"SETS", "LABELS"})
        if unknown and self.flaw == "raw error":
            raise KeyError(unknown[0])
        if unknown and self.flaw != "silent":
            raise EventInfoError(f"{where}: unknown key {unknown[0]!r}")
        self.calls += 1
        if self.flaw == "counts":
            document["SETS"][f"set{self.calls}"] = ["pt"]
        transform = {"transform": ()} if parity else {}
        event = EventInfo.model_validate(
            {
                "streams": {
                    name: {"features": {f: dict(transform) for f in features}}
                    for name, features in document["SETS"].items()
                },
                "targets": {n: {"kind": "classification"} for n in document["LABELS"]},
                "shared_objects": self.flaw == "moody" and self.calls % 2 == 0,
            }
        )
        heads = {"signal": {"name": "classification", "target": "signal"}}
        defaults: dict[str, Any] = {"model": {"heads": heads}}
        if self.flaw == "objects":
            defaults["seed"] = {3}
        if self.flaw == "unknown default":
            defaults["epochs"] = 3
        return Description(event, defaults)


def test_a_dialect_that_fails_is_told_apart_from_a_check_that_fails() -> None:
    class Nameless(ShoutingDialect):
        name = None

    with pytest.raises(AssertionError, match=r"Nameless\.name is None"):
        check_dialect(Nameless(), [DOCUMENT])
    with pytest.raises(AssertionError, match="document 0: describe raises KeyError"):
        check_dialect(ShoutingDialect(), [{"SETS": {"jets": ["pt"]}}])


def test_a_conforming_dialect_passes() -> None:
    check_dialect(ShoutingDialect(), [DOCUMENT])


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("takes all", "recognises an empty document"),
        ("takes hepset's", "recognises hepset's own event file"),
        ("takes nothing", "does not recognise document 0"),
        ("counts", "describe changes the document"),
        ("moody", "describing the same document twice gives two results"),
        ("objects", "the defaults are not plain data"),
        ("unknown default", "the defaults have .'epochs'., which no run configuration has"),
        ("raw error", "raises KeyError .* not EventInfoError"),
        ("silent", "takes the unknown key 'NO_SUCH_KEY_AT_ALL'"),
    ],
)
def test_a_flaw_is_named(flaw: str, message: str) -> None:
    broken = type("Broken", (ShoutingDialect,), {"flaw": flaw})
    document = {"SETS": {"jets": ["pt", "phi"]}, "LABELS": ["signal"]}
    with pytest.raises(AssertionError, match=message):
        check_dialect(broken(), [document])
