"""Event files and data files of SPANet 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hepset
from hepset.dialects import describe_event
from hepset.errors import EventInfoError
from hepset.testing import check_dialect
from hepset_spanet.dialect import SpanetDialect
from hepset_spanet.ini_file import from_ini

INI = """
[SOURCE]
mass = log_normalize
pt = log_normalize
eta = normalize
phi = normalize
btag = none

[EVENT]
particles = (t1, t2)
permutations = [(t1, t2)]

[t1]
jets = (q1, q2, b)
permutations = [(q1, q2)]

[t2]
jets = (q1, q2, b)
permutations = [(q1, q2)]
"""


def sections(**changes: Any) -> dict[str, Any]:
    particle = {"jets": "(q1, q2, b)", "permutations": "[(q1, q2)]"}
    found: dict[str, Any] = {
        "SOURCE": {"pt": "log"},
        "EVENT": {"particles": "(t1, t2)", "permutations": "[(t1, t2)]"},
        "t1": particle,
        "t2": dict(particle),
    }
    for name, change in changes.items():
        found[name] = {**found.get(name, {}), **change}
    return found


def test_an_ini_file_says_what_its_yaml_says(tmp_path: Path) -> None:
    path = tmp_path / "event.ini"
    path.write_text(INI)
    event = describe_event(path).event
    tags = {"mass": "log_normalize", "pt": "log_normalize", "eta": "normalize"}
    tags |= {"phi": "normalize", "btag": "none"}
    same = {
        "INPUTS": {"SEQUENTIAL": {"Source": tags}},
        "EVENT": {"t1": ["q1", "q2", "b"], "t2": ["q1", "q2", "b"]},
        "PERMUTATIONS": {"EVENT": [["t1", "t2"]], "t1": [["q1", "q2"]], "t2": [["q1", "q2"]]},
    }
    assert event == describe_event(same).event
    assert hepset.load_event(path, parity=True).streams["Source"].features["phi"].transform == (
        "standardise",
    )


def test_a_file_that_is_no_ini_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "event.ini"
    path.write_text("[EVENT]\nparticles = (t1)\nparticles = (t2)\n")
    with pytest.raises(EventInfoError, match=r"not a valid INI file: .*already exists"):
        describe_event(path)


def test_without_particles_it_still_is_an_ini(tmp_path: Path) -> None:
    path = tmp_path / "event.ini"
    path.write_text(INI.replace("particles", "particle"))
    with pytest.raises(EventInfoError, match=r"particle: unknown key; did you mean 'particles'"):
        describe_event(path)


def test_the_dialect_conforms() -> None:
    check_dialect(SpanetDialect(), [sections()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"EVENT": {"particles": "()"}}, r"\[EVENT\] particles: expected names such as"),
        ({"EVENT": {"particles": "(t1, t2, t3)"}}, r"\[t3\]: this section is missing"),
        ({"t1": {"jets": ""}}, r"\[t1\] jets: expected names"),
        ({"t1": {"jetz": "x"}}, r"\[t1\] jetz: unknown key; did you mean 'jets'"),
        (
            {"w": {"jets": "(a)"}},
            r"\[w\]: unknown section; there are \[SOURCE\], \[EVENT\] and one",
        ),
        (
            {"t1": {"permutations": "[(q1, q2, b)]"}},
            r"\(q1, q2, b\) may mean every reordering or one cycle",
        ),
        ({"EVENT": {"particles": "(t1, t1, t2)"}}, r"particles: 't1' is named twice"),
        ({"EVENT": {"permutations": "t1, t2"}}, r"expected pairs in brackets .* found 't1, t2'"),
        ({"t1": {"permutations": "[(q1, q2), b]"}}, r"\[t1\] permutations: expected pairs"),
        ({"t1": {"permutations": "[(q1, q2"}}, r"\[t1\] permutations: expected pairs"),
        ({"t1": {"permutations": "[(q1)]"}}, r"\(q1\) interchanges nothing"),
    ],
)
def test_what_is_missing_or_ambiguous_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(EventInfoError, match=message):
        from_ini(sections(**changes), where="event.ini")


def test_a_data_file_of_version_one_is_read_with_it(tmp_path: Path) -> None:
    event = tmp_path / "event.ini"
    event.write_text(INI)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        mask = np.arange(6) < np.array([6, 5])[:, None]
        file["source/mask"] = mask
        for name in ("mass", "pt", "eta", "phi", "btag"):
            file[f"source/{name}"] = np.where(mask, 1.5, 0.0)
        for number, particle in enumerate(("t1", "t2")):
            file[f"{particle}/mask"] = np.array([True, number == 0])
            for place, product in enumerate(("q1", "q2", "b")):
                index = 3 * number + place
                second = index if number == 0 else -1
                file[f"{particle}/{product}"] = np.array([index, second], np.int32)
    described = describe_event(event).event
    reader = hepset.open_reader("spanet-hdf5", files=[str(tmp_path / "old.h5")], event=described)
    batch = next(iter(reader))
    assert batch["Source"].shape == (2, 6, 5)
    assert batch["Source.mask"].sum() == 11
    assert batch["target/assignment/t1"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch["target/assignment/t2"].tolist() == [[3, 4, 5], [-1, -1, -1]]
