from __future__ import annotations

from pathlib import Path

from hepset.run.stages import StageRecords


def test_a_finished_stage_is_up_to_date_until_something_changes(tmp_path: Path) -> None:
    output = tmp_path / "dataset.json"
    inputs = {"seed": 1, "prepare": {"select": {"cut": "count(jets) > 5"}}}
    records = StageRecords(tmp_path)
    assert records.why_not("prepare", inputs, [output]) == "running (first time)"

    output.touch()
    records.finished("prepare", inputs)
    again = StageRecords(tmp_path)
    assert again.why_not("prepare", inputs, [output]) is None
    changed = {"seed": 2, "prepare": {"select": {}}}
    assert again.why_not("prepare", changed, [output]) == (
        'seed changed from 1 to 2; prepare.select.cut changed from "count(jets) > 5" to null'
    )
    output.unlink()
    assert again.why_not("prepare", inputs, [output]) == "dataset.json is missing"


def test_a_stage_that_starts_again_takes_the_later_ones_with_it(tmp_path: Path) -> None:
    records = StageRecords(tmp_path)
    for stage in ("prepare", "train", "evaluate", "export"):
        records.finished(stage, {})  # type: ignore[arg-type]
    records.started("train")
    assert records.why_not("prepare", {}, []) is None
    for stage in ("train", "evaluate", "export"):
        assert records.why_not(stage, {}, []) == "running (first time)"  # type: ignore[arg-type]


def test_evaluation_does_not_touch_the_export(tmp_path: Path) -> None:
    records = StageRecords(tmp_path)
    records.finished("evaluate", {})
    records.finished("export", {})
    records.started("evaluate")
    assert records.why_not("export", {}, []) is None


def test_a_damaged_record_means_that_nothing_is_done(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text("{")
    assert StageRecords(tmp_path).why_not("train", {}, []) == "running (first time)"
