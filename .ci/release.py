#!/usr/bin/env python3
"""Make a release of all distributions: ``.ci/release.py 0.2.0``.

Sets the version where it stands (VERSION, CITATION.cff), the bounds between the distributions and
the extras, gives the changelog's Unreleased section its number and date, builds every source
distribution and wheel into ``dist`` and looks at what they say. It commits, tags and uploads
nothing: what to do next is printed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def projects(root: Path) -> list[Path]:
    """Return the folders of all distributions, the core first."""
    return [root, *sorted(p.parent for p in root.glob("src/hepset_plugins/*/pyproject.toml"))]


def bounds(version: str) -> str:
    """Return what the distributions ask of each other: the same minor version."""
    major, minor, _ = version.split(".")
    return f">={major}.{minor},<{major}.{int(minor) + 1}"


def set_version(root: Path, version: str) -> None:
    """Write a version wherever it stands."""
    (root / "VERSION").write_text(version + "\n")
    citation = root / "CITATION.cff"
    citation.write_text(re.sub(r"(?m)^version: .+$", f"version: {version}", citation.read_text()))
    own = re.compile(r'"(hepset(?:-[a-z0-9]+)?)>=\d+\.\d+,<\d+\.\d+"')
    for folder in projects(root):
        path = folder / "pyproject.toml"
        path.write_text(own.sub(rf'"\g<1>{bounds(version)}"', path.read_text()))


def close_changelog(path: Path, version: str, date: str) -> None:
    """Give the section Unreleased a number and a date, and begin a new one."""
    text = path.read_text(encoding="utf-8")
    heading = "## Unreleased\n"
    _, found, after = text.partition(heading)
    if not found or not re.search(r"(?m)^- ", after.partition("\n## ")[0]):
        sys.exit(f"{path.name}: nothing stands under 'Unreleased'")
    path.write_text(text.replace(heading, f"{heading}\n## {version} ({date})\n", 1), "utf-8")


def build(root: Path, version: str) -> list[Path]:
    """Build everything into ``dist``; every wheel says the version and its bounds."""
    target = root / "dist"
    for folder in projects(root):
        command = [sys.executable, "-m", "build", "--outdir", str(target), str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wheels = sorted(target.glob(f"*-{version}-*.whl"))
    if len(wheels) != len(projects(root)):
        sys.exit(f"dist: {len(wheels)} wheels of {version}, expected {len(projects(root))}")
    for wheel in wheels:
        problem = wrong_with(wheel, version)
        if problem:
            sys.exit(f"{wheel.name}: {problem}")
    return wheels


def wrong_with(wheel: Path, version: str) -> str | None:
    """Say what is wrong with the metadata or the content of a wheel."""
    name = wheel.name.split("-")[0]
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        metadata = Parser().parsestr(
            archive.read(f"{name}-{version}.dist-info/METADATA").decode("utf-8")
        )
    if metadata["Version"] != version:
        return f"says that it is {metadata['Version']}"
    if {file.split("/")[0] for file in files} != {name, f"{name}-{version}.dist-info"}:
        return "holds more than its own package"
    lower, upper = bounds(version).split(",")
    for line in metadata.get_all("Requires-Dist", []):
        ours = re.match(r"hepset(-\w+)?(?=[<>=])", line)
        if ours and not (lower in line and upper in line):
            return f"asks for {line}, expected {bounds(version)}"
    return None


def main() -> None:
    """Do all steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", help="such as 0.2.0")
    version = parser.parse_args().version
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        parser.error(f"{version!r} is not of the form 0.2.0")
    status = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain"],
        capture_output=True,
        text=True,
        check=True,
    )
    if status.stdout.strip():
        sys.exit("the working tree has changes: commit them first")
    set_version(ROOT, version)
    close_changelog(ROOT / "CHANGELOG.md", version, datetime.now(UTC).date().isoformat())
    for wheel in build(ROOT, version):
        print(wheel.relative_to(ROOT))
    print(f"Now: .ci/run, then git commit -am 'Release {version}' && git tag v{version},")
    print("and upload what dist holds.")


if __name__ == "__main__":
    main()
