"""The C++ example: compiled, run on an exported model, compared with Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from hepset.export import export_onnx
from hepset.model import build_model
from hepset.model.onnx_model import OnnxModel
from hepset.schema.config import ModelConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics

EXAMPLE = Path(__file__).parents[4] / "examples" / "cpp"
LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)
COMPILER = shutil.which("g++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no g++"),
    pytest.mark.skipif(LIBRARY is None, reason="this onnxruntime has its library not apart"),
    pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the examples are not installed"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled without ONNX Runtime's headers."""
    path = tmp_path_factory.mktemp("cpp") / "assign"
    command = [str(COMPILER), "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        [*command, str(EXAMPLE / "main.cpp"), "-o", str(path), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path


def call(program: Path, *arguments: str, events: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *arguments],
        input=events,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ONNXRUNTIME": str(LIBRARY)},
    )


def test_it_prints_what_python_finds(program: Path, tmp_path: Path) -> None:
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 5, "features": ["a", "b"]}},
            "particles": {"w": {"q1": "jets", "q2": "jets"}, "b": {"b": "jets"}},
            "symmetries": {"w": [["q1", "q2"]]},
        }
    )
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "transformer", "width": 8, "depth": 0, "attention_heads": 2},
            "heads": {"assignment": {"name": "assignment", "hidden": 4}},
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build_model(config, event, compile_contract(event), Statistics(tensors={}))
        for parameter in model.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    counts = [5, 3, 2, 1]
    jets = np.random.default_rng(1).normal(size=(4, 5, 2)).astype(np.float32)
    mask = np.arange(5) < np.array(counts)[:, None]
    text = "\n\n".join(
        "\n".join(" ".join(f"{value:.9g}" for value in jet) for jet in jets[row, :count])
        for row, count in enumerate(counts)
    )
    done = call(program, str(path), "jets", "assignment/w", "assignment/b", events=text)
    assert done.returncode == 0, done.stderr
    expected = OnnxModel(path).predict({"jets": jets, "jets.mask": mask})
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    for row in range(4):
        assert lines[3 * row] == f"event {row}"
        for line, name in zip(lines[3 * row + 1 : 3 * row + 3], ("w", "b"), strict=True):
            output, *numbers, probability = line.split()
            assert output == f"assignment/{name}"
            assert [int(n) for n in numbers] == expected[output][row].tolist()
            assert float(probability) == pytest.approx(
                float(expected[f"{output}/probability"][row]), rel=1e-4, abs=1e-6
            )
    wrong = call(program, str(path), "leptons", "assignment/w", events=text)
    assert wrong.returncode == 1
    assert "leptons" in wrong.stderr


def test_it_says_what_is_wrong(program: Path, tmp_path: Path) -> None:
    assert call(program, events="").returncode == 2
    missing = call(program, str(tmp_path / "no.onnx"), "jets", "x", events="1 2\n")
    assert missing.returncode == 1
    assert "no.onnx" in missing.stderr
    nothing = call(program, "no.onnx", "jets", "x", events="\n")
    assert "no event was given" in nothing.stderr
