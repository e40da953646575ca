"""Files with an address instead of a path: ``root://…``, ``https://…``, ``s3://…``, ``hf://…``.

fsspec knows the protocols; most of them need a package of their own.
"""

from __future__ import annotations

from typing import IO, Any, Final

from hepset.errors import ReadError

_PACKAGES: Final = {
    "root": "fsspec-xrootd",
    "xroot": "fsspec-xrootd",
    "roots": "fsspec-xrootd",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "hf": "huggingface-hub",
    "sftp": "paramiko",
    "ssh": "sshfs",
}
"""Protocol to the package that speaks it."""


def is_address(path: str) -> bool:
    """Whether a path has a scheme."""
    return "://" in path


def file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address and the path in it.

    Raises:
        ReadError: If the package for the protocol is not installed.
    """
    from fsspec.core import url_to_fs  # noqa: PLC0415  slow to import, and seldom needed

    scheme = address.partition("://")[0]
    try:
        system, path = url_to_fs(address)
    except (ImportError, ValueError) as problem:
        package = _PACKAGES.get(scheme)
        way_out = (
            f"it needs the package {package}: pip install {package}"
            if package
            else f"fsspec knows no protocol {scheme!r}"
        )
        raise ReadError(f"{address}: cannot be read here; {way_out} ({problem})") from problem
    return system, path


def expand_address(pattern: str) -> list[str]:
    """Return the addresses that a pattern stands for, sorted; one without a pattern as it is.

    Raises:
        ReadError: If nothing matches, or the server cannot be asked.
    """
    if not set(pattern.partition("://")[2]) & set("*[") or pattern.startswith("http"):
        return [pattern]
    system, path = file_system(pattern)
    try:
        found = sorted(system.glob(path))
    except Exception as problem:  # every protocol fails in its own way
        raise ReadError(f"files: {pattern!r} cannot be listed: {problem}") from problem
    if not found:
        raise ReadError(f"files: {pattern!r} matches no file")
    return [str(system.unstrip_protocol(name)) for name in found]


def open_address(address: str) -> IO[bytes]:
    """Open a file for reading at any place.

    Raises:
        ReadError: If it cannot be opened.
    """
    system, path = file_system(address)
    try:
        file: IO[bytes] = system.open(path, "rb")
    except Exception as problem:  # every protocol fails in its own way
        reason = str(problem) or type(problem).__name__
        raise ReadError(f"{address}: cannot be opened: {reason}") from problem
    return file
