from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import hepset
from hepset.cli import main
from hepset.errors import ContractError, TrainingError
from hepset.plugins import Component, hookimpl, registry
from hepset.plugins.builtin import COMMANDS


@click.command()
@click.argument("what")
def toy(what: str) -> None:
    if what == "wrong":
        raise ContractError("tensor 'jets' has 3 features, not 4")
    if what == "stopped":
        raise TrainingError("the loss is not finite")
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if what == "closed":
        raise PermissionError(errno.EACCES, "Permission denied", "runs/x")
    if what == "bug":
        raise ZeroDivisionError
    click.echo(f"did {what}")


class ToyPlugin:
    """A plugin with commands."""

    @hookimpl
    def hepset_components(self) -> list[Component]:
        return [
            Component("commands", "toy", toy, "Do what is said."),
            Component("commands", "not-a-command", "json:dumps"),
        ]


@pytest.fixture(autouse=True)
def toy_plugin() -> Iterator[None]:
    registry().register(ToyPlugin(), name="toy", distribution="acme-toy")
    yield
    registry().unregister("toy")


def test_a_plugin_adds_a_command() -> None:
    result = CliRunner().invoke(main, ["toy", "this"])
    assert (result.exit_code, result.output) == (0, "did this\n")


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("wrong", 2, "hepset: tensor 'jets' has 3 features, not 4\n"),
        ("stopped", 1, "hepset: the loss is not finite\n"),
        ("full", 1, "hepset: No space left on device\n"),
        ("closed", 1, "hepset: runs/x: Permission denied\n"),
    ],
)
def test_an_error_on_purpose_is_one_message(what: str, code: int, text: str) -> None:
    result = CliRunner().invoke(main, ["toy", what])
    assert (result.exit_code, result.stderr, result.stdout) == (code, text, "")


def test_debug_shows_the_traceback_too() -> None:
    result = CliRunner().invoke(main, ["--debug", "toy", "wrong"])
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("\nhepset: tensor 'jets' has 3 features, not 4\n")


def test_a_bug_is_not_disguised() -> None:
    result = CliRunner().invoke(main, ["toy", "bug"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_misspelt_command_gets_the_nearest() -> None:
    result = CliRunner().invoke(main, ["plugin"])
    assert result.exit_code == 2
    assert "there is no command 'plugin'; did you mean 'plugins'?" in result.stderr


def test_a_hopeless_command_points_to_the_help() -> None:
    result = CliRunner().invoke(main, ["xyzzy"])
    assert result.exit_code == 2
    assert "there is no command 'xyzzy'; see hepset --help" in result.stderr


def test_what_a_plugin_calls_a_command_must_be_one() -> None:
    result = CliRunner().invoke(main, ["not-a-command"])
    assert result.exit_code == 1
    assert "'not-a-command' is a function, not a click command" in result.stderr


def test_the_help_lists_commands_of_core_and_plugins() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, command in COMMANDS.items():
        assert name in result.output
        assert command.summary.split()[-1] in result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "toy Do what is said." in lines
    assert "not-a-command From acme-toy." in lines


def test_a_bad_plugin_selection_is_a_message_for_help_too() -> None:
    code = "from hepset.cli import main; main(['--help'])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"HEPSET_PLUGINS": "pytia"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "'pytia', which is not installed; did you mean 'pythia'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"hepset {hepset.__version__}\n"
