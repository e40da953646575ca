#!/usr/bin/env -S uv run --script

# /// script
# dependencies = ["nox>=2024.4"]
# ///

"""Sessions that each make an environment of their own; `make` is the quicker way with one."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "uv|virtualenv"

ROOT = Path(__file__).parent
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("src/hepset_plugins/*/pyproject.toml"))]

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
PROCESSORS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
        **ONE_THREAD,
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        **dict.fromkeys(ONE_THREAD, "2"),
    },
}
"""What other processors compute with, set before any library starts."""


def install(session: nox.Session, group: str) -> None:
    """Install core and plugins, editable, with one dependency group."""
    editable = [word for project in PROJECTS for word in ("-e", str(project))]
    session.install("pip>=25.1")
    session.install("-c", "constraints.txt", "--group", group, *editable)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and the layout of the repository."""
    session.install("-c", "constraints.txt", "ruff", "sp-repo-review[cli]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("repo-review", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    install(session, "dev")
    session.run("mypy")


@nox.session(python=["3.11", "3.13"])
def tests(session: nox.Session) -> None:
    """Run every test on the oldest and on a later Python; arguments after ``--`` go to pytest."""
    install(session, "test")
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
@nox.parametrize("isa", ["default", "avx2"])
def cpu(session: nox.Session, isa: str) -> None:
    """Run every test as another processor would: no wide vectors, or two threads of AVX2.

    ``nox -s "cpu(isa='default')"``; sums come in another order, so that a test that hangs on
    rounding fails.
    """
    install(session, "test")
    session.run("pytest", "-n", "auto", *session.posargs, env=PROCESSORS[isa])


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """Run the quick tests of the core with the lowest versions that the packages ask for."""
    session.install("pip>=25.1", "uv")
    session.install("-e", ".", "--group", "test", "--resolution", "lowest-direct")
    session.run("pytest", "-n", "auto", "-m", "not slow", "tests", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build/html")


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build the source and binary distribution of core and plugins into ``dist``."""
    session.install("-c", "constraints.txt", "build")
    for project in PROJECTS:
        session.run("python", "-m", "build", "--outdir", "dist", str(project))


if __name__ == "__main__":
    nox.main()
