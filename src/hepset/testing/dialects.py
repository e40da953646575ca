"""`check_dialect`: what it means to be a dialect of event files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hepset.dialects import HepsetDialect
from hepset.errors import EventInfoError
from hepset.interfaces.dialect import Description, Dialect
from hepset.schema.config import RunConfig
from hepset.schema.event import EventInfo
from hepset.testing.batches import make_event_info
from hepset.testing.conditions import require

__all__ = ["check_dialect"]


def check_dialect(dialect: Dialect, documents: Sequence[Mapping[str, Any]]) -> None:
    """Check that a dialect conforms.

    * It recognises its own documents, neither an empty one nor hepset's; hepset's own dialect
      recognises none of them.
    * Every document is described, with and without `parity`, always by the same `EventInfo`,
      which is the same after being written as hepset's own event file; the document is unchanged.
    * The defaults for a run are plain data, under keys that a run configuration has.
    * A key that the dialect does not know is an `EventInfoError` that names document and key.

    Args:
        dialect: The dialect.
        documents: Loaded YAML, one or more, best with everything that the grammar has.

    Raises:
        AssertionError: Naming the document, the property and the reason.
    """
    require(isinstance(dialect, Dialect), f"{type(dialect).__name__} is not derived from Dialect")
    name = getattr(dialect, "name", None)
    require(
        isinstance(name, str) and name,
        f"{type(dialect).__name__}.name is {name!r}: a dialect has a name, which messages say",
    )
    require(documents, "check_dialect needs at least one document")
    require(not dialect.recognises({}), f"{dialect.name} recognises an empty document as its own")
    own = HepsetDialect()
    if dialect.name != own.name:
        hepsets = make_event_info().model_dump(mode="json", exclude_none=True)
        require(
            not dialect.recognises(hepsets),
            f"{dialect.name} recognises hepset's own event file: no user could load one any more",
        )
    for number, document in enumerate(documents):
        where = f"document {number}"
        require(
            dialect.recognises(document),
            f"{dialect.name} does not recognise {where}: users would have to name the dialect",
        )
        require(
            dialect.name == own.name or not own.recognises(document),
            f"hepset's own dialect recognises {where} of {dialect.name}",
        )
        for parity in (False, True):
            _check_description(dialect, document, where, parity=parity)
        _check_unknown_key(dialect, document, where)


def _check_description(
    dialect: Dialect, document: Mapping[str, Any], where: str, *, parity: bool
) -> None:
    before = copy.deepcopy(document)
    try:
        found = dialect.describe(document, where=where, parity=parity)
    except Exception as problem:
        raise AssertionError(
            f"{where}: describe raises {type(problem).__name__} ({problem}) with parity={parity}"
        ) from problem
    require(isinstance(found, Description), f"{where}: describe gives {type(found).__name__}")
    require(isinstance(found.event, EventInfo), f"{where}: the event is no EventInfo")
    require(document == before, f"{where}: describe changes the document that it is given")
    require(
        dialect.describe(copy.deepcopy(document), where=where, parity=parity) == found,
        f"{where}: describing the same document twice gives two results",
    )
    text = yaml.safe_dump(found.event.model_dump(mode="json", exclude_none=True), sort_keys=False)
    again = HepsetDialect().describe(yaml.safe_load(text), where=where).event
    require(again == found.event, f"{where}: the event differs after being stored as hepset's own")
    for kind in ("streams", "globals", "processes", "targets"):
        require(
            list(getattr(again, kind)) == list(getattr(found.event, kind)),
            f"{where}: the order of {kind} is lost: indices count through it",
        )
    try:
        stored = json.loads(json.dumps(found.defaults))
    except TypeError as problem:
        raise AssertionError(f"{where}: the defaults are not plain data: {problem}") from problem
    require(stored == found.defaults, f"{where}: the defaults differ after being stored as JSON")
    unknown = sorted(set(found.defaults) - set(RunConfig.model_fields))
    require(not unknown, f"{where}: the defaults have {unknown}, which no run configuration has")


def _check_unknown_key(dialect: Dialect, document: Mapping[str, Any], where: str) -> None:
    key = "NO_SUCH_KEY_AT_ALL"
    why = "a misspelt key would be silently ignored"
    try:
        dialect.describe({**document, key: 1}, where=where)
    except EventInfoError as problem:
        message = str(problem)
        require(key in message and where in message, f"{where}: unknown key: {message!r} lacks it")
    except Exception as problem:
        raise AssertionError(
            f"{where}: the unknown key {key!r} raises {type(problem).__name__} ({problem}), not "
            "EventInfoError"
        ) from problem
    else:
        raise AssertionError(f"{where}: {dialect.name} takes the unknown key {key!r}: {why}")
