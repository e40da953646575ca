"""Which of several processes this one is, where a launcher has started the same command many times.

Lightning's own launcher, ``torchrun`` and ``srun`` run the whole command once per device. Process 0
does the work that is done once (prepare, evaluate, export); the others wait for its dataset and
join the training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

_VARIABLES: Final = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
_WORLD: Final = {"SLURM_PROCID": "SLURM_NTASKS"}
POLL_SECONDS: Final = 1.0


def process_rank() -> int:
    """Return the number of this process, 0 where it is the only one."""
    for name in _VARIABLES:
        text = os.environ.get(name, "")
        world = os.environ.get(_WORLD.get(name, ""), "2")
        if text.isdigit() and world != "1":
            return int(text)
    return 0


def wait_until(ready: Callable[[], bool]) -> None:
    """Wait for another process; the launcher ends this one if that one fails."""
    while not ready():
        time.sleep(POLL_SECONDS)
