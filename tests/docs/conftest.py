from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    caption: str
    classes: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found += sorted((ROOT / "examples").glob("*/README.md"))
    found += sorted((ROOT / "src" / "hepset_plugins").glob("*/README.md"))
    return [path for path in found if "_build" not in path.parts]


def snippets(*languages: str) -> list[Snippet]:
    """All fenced blocks in one of these languages, whatever their form."""
    found = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^(`{3,})([^\n]*)\n(.*?)^\1\s*$", text, re.MULTILINE | re.DOTALL):
            head, body = match[2].strip(), match[3]
            options = {}
            if head.startswith("{code-block}"):
                head = head.removeprefix("{code-block}").strip()
                while option := re.match(r":(\w+): *([^\n]*)\n", body):
                    options[option[1]] = option[2]
                    body = body[option.end() :]
            if head in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(
                    Snippet(
                        path.relative_to(ROOT).as_posix(),
                        line,
                        head,
                        options.get("caption", ""),
                        options.get("class", ""),
                        body.lstrip("\n"),
                    )
                )
    return found
