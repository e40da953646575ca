"""What a worker process does first; imports nothing that starts threads."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing import connection, parent_process

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_THREAD_LIMIT",
    "ARROW_IO_THREADS",
)


def start_worker() -> None:
    """Use one native thread, and end when the parent ends, however it ends."""
    for variable in _VARIABLES:
        os.environ[variable] = "1"
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].set_cpu_count(1)
    parent = parent_process()
    if parent is not None:
        watch = threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True)
        watch.start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
