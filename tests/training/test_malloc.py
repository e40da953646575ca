"""`hepset.training.malloc`: freed memory stays with the process, where glibc is asked for it."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hepset.training.malloc import keep_freed_memory

FAULTS = """
import resource, sys
from hepset.training.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def use():
    block = bytearray(1 << 28)
    del block
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    use()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory is not glibc's")
def test_blocks_are_used_again_without_asking_the_system() -> None:
    def new_memory(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert new_memory("kept") < 1 << 20


@pytest.mark.parametrize(
    ("largest", "expected", "agreed"),
    [
        (1 << 31, [(-3, 1 << 30), (-1, 2**31 - 1)], True),
        (1 << 25, [(-3, 1 << 30), (-3, 1 << 25), (-1, 2**31 - 1)], True),
        (0, [(-3, 1 << 30), (-3, 1 << 25)], False),
    ],
    ids=["glibc 2.35", "before", "refused"],
)
def test_an_older_glibc_is_asked_for_what_it_can(
    monkeypatch: pytest.MonkeyPatch, largest: int, expected: list[tuple[int, int]], agreed: bool
) -> None:
    """The other option alone would make it give back every block of more than 128 kB."""
    asked: list[tuple[int, int]] = []

    def mallopt(name: int, value: int) -> int:
        asked.append((name, value))
        return int(name != -3 or value <= largest)

    library = SimpleNamespace(gnu_get_libc_version=None, mallopt=mallopt)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert keep_freed_memory() is agreed
    assert asked == expected


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not keep_freed_memory()
