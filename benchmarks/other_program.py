"""Another program in an interpreter of its own, asked by lines of JSON."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Cost


class OtherProgram:
    """A process that runs an adapter beside this file and measures itself when it is asked.

    It says one line when it is ready, and answers every line of JSON on its input by one.

    Args:
        name: What it is, for messages.
        python: Its interpreter.
        adapter: The script to run.
        arguments: For the script.

    Attributes:
        ready: The line that it said when it was ready.

    Raises:
        RuntimeError: If the program cannot be imported there, or its process ends.
    """

    def __init__(self, name: str, python: str, adapter: Path, *arguments: object) -> None:
        self.name = name
        with tempfile.TemporaryFile("w+") as errors:
            try:
                self.process = subprocess.Popen(
                    [python, str(adapter), *map(str, arguments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            except OSError as problem:
                raise RuntimeError(str(problem)) from None
            assert self.process.stdout is not None
            self.ready = self.process.stdout.readline().strip()
            if not self.ready:
                self.process.wait()
                errors.seek(0)
                raise RuntimeError((errors.read().strip().splitlines() or ["it ended"])[-1])

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer.

        Raises:
            RuntimeError: If the process ends instead.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}'s process ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cost(self, what: str, **more: Any) -> Cost:
        """Ask for something that answers with its cost."""
        answer = self.ask(what, **more)
        return Cost(answer["cpu"], answer["wall"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
