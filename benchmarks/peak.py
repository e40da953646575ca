"""Call one function in this process and print how much memory that took, as a line of JSON.

python -m benchmarks.peak module:function '[arguments]'
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(kind: str) -> float:
    """Return ``VmRSS`` or ``VmHWM`` of this process in MB.

    Unlike ``ru_maxrss`` these do not begin with what the parent had when it started this process.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == kind:
                return int(value.split()[0]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> None:
    """Let ``VmHWM`` begin anew at what is resident now, where the system can."""
    try:
        _RESET.write_text("5")
    except OSError:
        return


def main() -> None:
    """Measure the function that the command line names."""
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    arguments = json.loads(sys.argv[2])
    forget_peak()
    before = resident("VmRSS")
    value = function(*arguments)
    total = resident("VmHWM")
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found = {"added": total - before, "total": total, "children": children, "value": value}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
