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


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test; arguments after ``--`` go to pytest."""
    install(session, "test")
    session.run("pytest", *session.posargs)


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
