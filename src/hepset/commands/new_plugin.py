"""``hepset new-plugin``: a complete project with a reader, a head, a writer or a backbone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import click

import hepset
from hepset.errors import ConfigurationError
from hepset.plugins import registry

PARTS = ("reader", "head", "writer", "backbone")
"""What a new plugin may have."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 20
_BLOCK = re.compile(r"^#if (\w+)\n(.*?)^#end\n", re.MULTILINE | re.DOTALL)


@click.command(short_help="Write the project of a new plugin, whose tests pass.")
@click.argument("name")
@click.option("--reader", "reader", is_flag=True, help="With a reader of NumPy files.")
@click.option("--head", "head", is_flag=True, help="With a head: one number per event.")
@click.option("--writer", "writer", is_flag=True, help="With a writer of NumPy files.")
@click.option("--backbone", "backbone", is_flag=True, help="With a backbone: sums over objects.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where the folder of the project is made; here without it.",
)
def new_plugin(name: str, *, output: Path, **wanted: bool) -> None:
    """Write the project hepset-NAME: package, tests, README, license.

    With all four parts where none is asked for. Each works as it is, conforms to the checks of
    hepset.testing, and is there to be changed.
    """
    parts = [part for part in PARTS if wanted[part]] or list(PARTS)
    folder = write_project(name, output, parts)
    click.echo(f"{folder}: {', '.join(parts)}")
    click.echo(f"pip install -e '{folder}[test]' && pytest {folder}")


def write_project(name: str, output: Path, parts: list[str]) -> Path:
    """Write the project of a plugin.

    Args:
        name: Name of the plugin and of its components; ``hepset-`` before it is left out.
        output: Where the folder of the project is made.
        parts: Some of `PARTS`.

    Returns:
        The folder.

    Raises:
        ConfigurationError: If the name cannot be used or is taken, or the folder is there.
    """
    short = name.removeprefix("hepset-")
    if not _NAME.fullmatch(short) or len(short) > _LONGEST_NAME:
        raise ConfigurationError(
            f"{name!r} cannot be the name of a plugin; use at most {_LONGEST_NAME} small letters, "
            "digits and hyphens, beginning with a letter"
        )
    taken = [plugin for plugin in registry().loaded if plugin.name == short]
    if taken:
        raise ConfigurationError(f"the name {short!r} is taken by {taken[0]}")
    folder = output / f"hepset-{short}"
    if folder.exists():
        raise ConfigurationError(f"{folder}: this folder is there already")
    package = f"hepset_{short.replace('-', '_')}"
    major, minor = map(int, hepset.__version__.split(".")[:2])
    words = {
        "name": short,
        "Name": short.replace("-", " ").capitalize(),
        "Class": "".join(word.capitalize() for word in short.split("-")),
        "distribution": f"hepset-{short}",
        "package": package,
        "least": f"{major}.{minor}",
        "next": f"{major}.{minor + 1}",
    }
    chosen = {*parts, *(["torch"] if {"head", "backbone"} & set(parts) else [])}
    left_out = set(PARTS) - set(parts)
    template = files("hepset.commands") / "plugin_template"
    for place, text in _templates(template):
        *parents, file = [package if part == "package" else part for part in place]
        part = file.removeprefix("test_").partition(".")[0]
        if part in left_out:
            continue
        if file.startswith("test_"):
            file = file.replace("test_", f"test_{package.removeprefix('hepset_')}_")
        path = folder.joinpath(*parents, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_filled(text, words, chosen), encoding="utf-8")
    return folder


def _templates(folder: Traversable, *place: str) -> Iterator[tuple[list[str], str]]:
    """Yield the place of each file of the template and what it holds."""
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.is_dir():
            yield from _templates(each, *place, each.name)
        elif each.name.endswith(".txt"):
            text = each.read_text(encoding="utf-8")
            yield [*place, each.name.removesuffix(".txt")], text


def _filled(text: str, words: Mapping[str, str], chosen: set[str]) -> str:
    """Keep the blocks ``#if part`` … ``#end`` of what was chosen, and fill in the names."""
    kept = _BLOCK.sub(lambda block: block[2] if block[1] in chosen else "", text)
    return Template(kept).substitute(words)
