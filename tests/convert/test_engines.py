from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hepset.convert.engines import LocalEngine, LocalEngineConfig, WorkerDiedError


def square(item: int) -> tuple[int, str, int]:
    return item * item, os.environ.get("OMP_NUM_THREADS", ""), os.getpid()


def die_once(item: tuple[int, str]) -> int:
    number, folder = item
    if number == 2 and not (Path(folder) / "died").exists():
        (Path(folder) / "died").touch()
        os._exit(1)
    return number


def poison(number: int) -> int:
    if number == 3:
        os._exit(1)
    return number


def fail(number: int) -> int:
    if number == 1:
        raise ValueError("task 1 fails")
    return number


@pytest.fixture
def engine() -> Any:
    made = LocalEngine(LocalEngineConfig(workers=2))
    yield made
    made.close()


def test_tasks_run_in_capped_processes(engine: LocalEngine) -> None:
    found = dict(engine.map(square, list(range(6))))
    assert {index: result[0] for index, result in found.items()} == {i: i * i for i in range(6)}
    assert {result[1] for result in found.values()} == {"1"}
    assert os.getpid() not in {result[2] for result in found.values()}
    # The processes are kept for the next phase.
    again = {result[2] for _, result in engine.map(square, list(range(6)))}
    assert again <= {result[2] for result in found.values()} or len(again) <= 2


def test_one_worker_or_one_task_stays_in_the_process(engine: LocalEngine) -> None:
    assert [result[2] for _, result in engine.map(square, [5])] == [os.getpid()]
    alone = LocalEngine(LocalEngineConfig(workers=1))
    assert [index for index, _ in alone.map(square, [5, 6])] == [0, 1]
    assert alone._pool is None
    assert list(engine.map(square, [])) == []


def test_dead_worker_is_replaced(engine: LocalEngine, tmp_path: Path) -> None:
    items = [(number, str(tmp_path)) for number in range(5)]
    assert dict(engine.map(die_once, items)) == {number: number for number in range(5)}
    assert (tmp_path / "died").exists()


def test_poisonous_task_is_named_when_all_others_are_done(engine: LocalEngine) -> None:
    done = []

    def run() -> None:
        for index, _ in engine.map(poison, list(range(6))):
            done.append(index)

    with pytest.raises(WorkerDiedError, match=r"1 of 6 tasks crash .*\n  task 3: 3\n"):
        run()
    assert sorted(done) == [0, 1, 2, 4, 5]


def test_first_exception_is_raised(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match="task 1 fails"):
        list(engine.map(fail, list(range(4))))
    # The engine can be used again.
    assert len(list(engine.map(square, [1, 2]))) == 2
