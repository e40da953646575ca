"""What a pass taught is read again, or made again whatever has become of its file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hepset.sampling.cache import Learnt, kept_or_learnt

TABLE = np.linspace(0, 1, 20, dtype=np.float32)


def learnt() -> Learnt:
    return Learnt(TABLE, 0.5, 100, 50.25)


def require_same(found: Learnt) -> None:
    np.testing.assert_array_equal(found.table, TABLE)
    assert (found.level, found.events, found.expected) == (0.5, 100, 50.25)


def never() -> Learnt:
    raise AssertionError("it is known already")


def test_what_was_learnt_counts_under_its_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sampling.npz"
    require_same(kept_or_learnt(path, "key", learnt))
    require_same(kept_or_learnt(path, "key", never))
    with pytest.raises(AssertionError, match="known already"):
        kept_or_learnt(path, "another key", never)


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "sampling.npz"
    kept_or_learnt(path, "key", learnt)
    raw = path.read_bytes()
    anew = replace(learnt(), complete=False)  # Which is not written over the damage.
    made_again = 0
    for place in range(len(raw)):
        damaged = bytearray(raw)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        found = kept_or_learnt(path, "key", lambda: anew)
        require_same(found)
        made_again += not found.complete
    assert made_again > len(raw) / 2


def test_other_files_of_numpy_are_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "sampling.npz"
    with path.open("wb") as file:
        np.save(file, TABLE)
    require_same(kept_or_learnt(path, "key", learnt))
    np.savez(path, key=np.array("key"), table=TABLE, numbers=np.array(3.0))
    require_same(kept_or_learnt(path, "key", learnt))


def test_what_is_learnt_of_some_files_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "sampling.npz"
    kept_or_learnt(path, "key", lambda: Learnt(TABLE, 0.5, 100, 50.25, complete=False))
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_that_cannot_be_used_costs_a_pass(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "stream"
    folder.mkdir()
    folder.chmod(mode)
    try:
        require_same(kept_or_learnt(folder / "sampling.npz", "key", learnt))
    finally:
        folder.chmod(0o700)
    assert "cannot be kept" in caplog.text


def test_a_file_in_the_place_of_the_folder_costs_a_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stream").write_text("")
    require_same(kept_or_learnt(tmp_path / "stream" / "sampling.npz", "key", learnt))
    assert "cannot be kept" in caplog.text
