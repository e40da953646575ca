from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hepset_jetclass.labels import (
    GROUP_WEIGHTS,
    INDEX,
    JETCLASS,
    LABELS,
    NAMES,
    flavour_content,
    groups,
)

# Rows of the published table, some of each block and all first and last of a block.
PUBLISHED = {
    0: "X_bb",
    4: "X_bc",
    9: "X_gg",
    14: "X_tauhtauh",
    15: "X_YY_bbbb",
    24: "X_YY_bbtauhtauh",
    25: "X_YY_bbb",
    31: "X_YY_bbm",
    32: "X_YY_cccc",
    47: "X_YY_ccm",
    63: "X_YY_qqqq",
    77: "X_YY_gggg",
    83: "X_YY_ggb",
    89: "X_YY_ggm",
    90: "X_YY_bee",
    102: "X_YY_stauhtaue",
    114: "X_YY_gtauhtauh",
    115: "X_YY_qqqb",
    126: "X_YY_bcsq",
    130: "X_YY_csq",
    131: "X_YY_bcev",
    146: "X_YY_cqtauev",
    160: "X_YY_qqtauhv",
    161: "QCD_bbccss",
    178: "QCD_b",
    187: "QCD_light",
}
PUBLISHED_GROUPS = {
    "X_QQ": range(9),
    "X_YY_QQQQ": [*range(15, 19), *range(32, 35), 48, 49, 63, *range(115, 127)],
    "X_YY_Qgg": range(83, 87),
    "X_YY_Qtauhtaul": [*range(100, 104), *range(105, 109)],
    "X_YY_ggl": [88, 89],
    "X_YY_QQtaulv": range(143, 155),
    "QCD": range(161, 188),
}


def test_the_labels_are_those_of_the_published_table() -> None:
    assert [label.index for label in LABELS] == list(range(188))
    assert Counter(label.part for label in LABELS) == {"Res2P": 15, "Res34P": 146, "QCD": 27}
    assert {index: NAMES[index] for index in PUBLISHED} == PUBLISHED
    assert INDEX["X_YY_ccbs"] == 119
    assert len(set(NAMES)) == 188
    assert len(JETCLASS) == 10


def test_the_groups_are_sophons() -> None:
    members = groups()
    assert list(members) == list(GROUP_WEIGHTS)
    assert sorted(index for group in members.values() for index in group) == list(range(188))
    assert {name: list(members[name]) for name in PUBLISHED_GROUPS} == {
        name: list(wanted) for name, wanted in PUBLISHED_GROUPS.items()
    }
    assert sum(GROUP_WEIGHTS.values()) == pytest.approx(1.732, abs=5e-4)


def test_content_is_counted() -> None:
    content = flavour_content(np.array([INDEX["X_YY_bctauev"], INDEX["QCD_bbs"], -1, 187]))
    assert {name: list(values) for name, values in content.items()} == {
        "b": [1, 2, -1, 0],
        "c": [1, 0, -1, 0],
        "s": [0, 1, -1, 0],
        "light": [0, 0, -1, 0],
        "gluon": [0, 0, -1, 0],
        "electron": [0, 0, -1, 0],
        "muon": [0, 0, -1, 0],
        "tau_h": [0, 0, -1, 0],
        "tau_e": [1, 0, -1, 0],
        "tau_mu": [0, 0, -1, 0],
        "neutrino": [1, 0, -1, 0],
    }
    everything = flavour_content()
    prongs = sum(everything.values())
    assert set(prongs[:15]) == {2}
    assert set(prongs[15:161]) == {3, 4}
    with pytest.raises(ValueError, match="188 is no label"):
        flavour_content(np.array([188]))


def test_groups_and_weights_are_those_of_the_public_configuration(jets_file: Path) -> None:
    text = (jets_file.parent / "JetClassII_full.yaml").read_text()
    for name, members in groups().items():
        formula = re.search(rf"^   label_{name}: (.*)$", text, re.MULTILINE)
        assert formula is not None, name
        chosen = eval(formula[1], {"jet_label": np.arange(188)})
        assert tuple(np.flatnonzero(chosen)) == members, name
    listed = re.search(r"class_weights:\s*\[(.*?)\]", text, re.DOTALL)
    names = re.search(r"reweight_classes:\s*\[(.*?)\]", text, re.DOTALL)
    assert listed is not None
    assert names is not None
    weights = [float(w) for w in re.findall(r"[\d.]+(?:e-?\d+)?", re.sub(r"#.*", "", listed[1]))]
    classes = re.findall(r"label_(\w+)", re.sub(r"#.*", "", names[1]))
    assert dict(zip(classes, weights, strict=True)) == dict(GROUP_WEIGHTS)
