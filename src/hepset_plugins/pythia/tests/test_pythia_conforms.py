"""hepset's own definition of a reader, applied to generated events."""

from __future__ import annotations

from hepset.testing import check_reader
from hepset_pythia.reader import PythiaConfig, PythiaReader


def test_reader_conforms() -> None:
    """Cuts leave events out; the others keep their place in the sequence all the same."""
    options = {"process": "ttbar-semileptonic", "min_leptons": 1, "min_jets": 3}
    config = PythiaConfig.parse({"events": 9, "seed": 4, **options}, "test")
    check_reader(PythiaReader(config), sizes=(5,), every_entry=False)
