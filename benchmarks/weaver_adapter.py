"""Measure weaver's own loader in an interpreter that has weaver-core; driven by lines on its input.

    python weaver_adapter.py BATCH

It prints a line when it is ready. Per line of JSON on its input, with the ``data`` file, the
``config`` and what to ``do``, it then answers by one: ``read`` = cost of reading the columns of the
configuration into memory, ``deliver`` = cost of all batches of one pass, ``first`` = cost to the
first batch, ``peak`` = memory that one pass adds in a fresh process. It imports nothing of hepset.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any

from spanet_adapter import in_child, load_peak, timed


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import torch
    from torch.utils.data import DataLoader
    from weaver.utils.data.fileio import _read_files
    from weaver.utils.dataset import SimpleIterDataset

    batch = int(sys.argv[1])
    torch.set_num_threads(1)
    memory = load_peak()

    def batches(request: dict[str, Any]) -> Any:
        dataset = SimpleIterDataset(
            {"_": [request["data"]]},
            request["config"],
            for_training=True,
            load_range_and_fraction=((0, 1), 1, request["split"]),
            fetch_step=request["step"],
        )
        return DataLoader(dataset, batch, drop_last=False)

    def deliver(request: dict[str, Any]) -> int:
        return sum(len(inputs["pf_mask"]) for inputs, _, _ in batches(request))

    def first(request: dict[str, Any]) -> int:
        return len(next(iter(batches(request)))[0]["pf_mask"])

    def read(request: dict[str, Any]) -> int:
        return len(_read_files([request["data"]], request["columns"]))

    def peak(request: dict[str, Any]) -> dict[str, float]:
        memory.forget_peak()
        before = memory.resident("VmRSS")
        jets = deliver(request)
        total = memory.resident("VmHWM")
        return {"added": total - before, "total": total, "value": jets}

    tasks = {"deliver": deliver, "first": first, "read": read}
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "peak":
            answer = in_child(lambda request=request: peak(request))
        else:
            task = tasks[request["do"]]
            answer = timed(lambda task=task, request=request: task(request))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
