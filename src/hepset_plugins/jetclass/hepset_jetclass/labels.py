"""The 188 labels of JetClass-II, the 10 of JetClass, and the 30 groups that Sophon samples by.

The names of JetClass-II follow a grammar, which is written down here instead of the table: ``q`` is
an up or down quark, ``g`` a gluon, ``m`` a muon, ``tauh``/``taue``/``taum`` a τ by its decay,
``v`` a neutrino. Order and grouping are those of arXiv:2405.12972 and its public configuration.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LIKE_FLAVOURS = ("b", "c", "s", "q", "g")
_LEPTON_PAIRS = ("ee", "mm", "tauhtaue", "tauhtaum", "tauhtauh")
_TWO_PRONGS = ("bb", "cc", "ss", "qq", "bc", "cs", "bq", "cq", "sq", "gg", *_LEPTON_PAIRS)
_MIXED_QUARKS = (
    *("qqqb", "qqqc", "qqqs", "bbcq", "ccbs", "ccbq", "ccsq", "sscq", "qqbc", "qqbs", "qqcs"),
    *("bcsq", "bcs", "bcq", "bsq", "csq"),
)
_CHARGED_PAIRS = ("bc", "cs", "bq", "cq", "sq", "qq")
_TOKEN = re.compile("tau[hem]|[bcsqgemv]")
_KIND = {
    **dict.fromkeys("bcsq", "Q"),
    "g": "g",
    **dict.fromkeys("em", "l"),
    "tauh": "tauh",
    **dict.fromkeys(("taue", "taum"), "taul"),
    "v": "v",
}


@dataclass(frozen=True)
class Label:
    """One class of JetClass-II.

    Attributes:
        index: Value of ``jet_label``.
        name: ``X_bb``, ``X_YY_bctauev``, ``QCD_light``, …
        part: Files that hold it: ``Res2P``, ``Res34P`` or ``QCD``.
        prongs: What the jet was made of, ``("b", "c", "taue", "v")``; for QCD the heavy and strange
            quarks, at most two of a kind.
    """

    index: int
    name: str
    part: str
    prongs: tuple[str, ...]

    @property
    def group(self) -> str:
        """Group by which Sophon samples: quarks, and e with μ, are not distinguished."""
        if self.part == "QCD":
            return "QCD"
        order = list(dict.fromkeys(_KIND.values()))
        kinds = sorted((_KIND[prong] for prong in self.prongs), key=order.index)
        return ("X_" if self.part == "Res2P" else "X_YY_") + "".join(kinds)


def _four_prongs() -> Iterator[str]:
    """Names of decays X → YY, three or four prongs, without their prefix."""
    for index, like in enumerate(_LIKE_FLAVOURS):
        pair = 2 * like
        yield from (pair + 2 * other for other in _LIKE_FLAVOURS[index:])
        yield from (pair + leptons for leptons in _LEPTON_PAIRS)
        yield from (pair + single for single in (*_LIKE_FLAVOURS, "e", "m"))
    for leptons in _LEPTON_PAIRS:
        yield from (single + leptons for single in _LIKE_FLAVOURS)
    yield from _MIXED_QUARKS
    for lepton in ("e", "m", "taue", "taum", "tauh"):
        yield from (pair + lepton + "v" for pair in _CHARGED_PAIRS)


def _qcd() -> Iterator[str]:
    """Names of QCD jets without their prefix: two, one or no b, c and s quarks."""
    for b in (2, 1, 0):
        for c in (2, 1, 0):
            for s in (2, 1, 0):
                yield b * "b" + c * "c" + s * "s" or "light"


def _labels() -> Iterator[Label]:
    parts = (
        ("Res2P", "X_", _TWO_PRONGS),
        ("Res34P", "X_YY_", tuple(_four_prongs())),
        ("QCD", "QCD_", tuple(_qcd())),
    )
    index = 0
    for part, prefix, bodies in parts:
        for body in bodies:
            prongs = () if body == "light" else tuple(_TOKEN.findall(body))
            yield Label(index, prefix + body, part, prongs)
            index += 1


LABELS: Final[tuple[Label, ...]] = tuple(_labels())
"""The labels of JetClass-II in the order of ``jet_label``."""
NAMES: Final[tuple[str, ...]] = tuple(label.name for label in LABELS)
"""Their names."""
INDEX: Final[Mapping[str, int]] = MappingProxyType({label.name: label.index for label in LABELS})
"""Name to index."""

GROUP_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "X_QQ": 0.4,
        "X_gg": 0.05,
        "X_ll": 0.08,
        "X_tauhtaul": 0.01,
        "X_tauhtauh": 0.015,
        "X_YY_QQQQ": 0.32,
        "X_YY_QQgg": 0.06,
        "X_YY_gggg": 0.0075,
        "X_YY_QQQ": 0.05,
        "X_YY_QQg": 0.005,
        "X_YY_Qgg": 0.005,
        "X_YY_ggg": 0.0015,
        "X_YY_QQll": 0.16,
        "X_YY_QQl": 0.01,
        "X_YY_Qll": 0.012,
        "X_YY_QQtauhtaul": 0.04,
        "X_YY_QQtauhtauh": 0.04,
        "X_YY_Qtauhtaul": 0.0018,
        "X_YY_Qtauhtauh": 0.0024,
        "X_YY_ggll": 0.04,
        "X_YY_ggl": 0.0025,
        "X_YY_gll": 0.003,
        "X_YY_ggtauhtaul": 0.01,
        "X_YY_ggtauhtauh": 0.01,
        "X_YY_gtauhtaul": 0.00045,
        "X_YY_gtauhtauh": 0.0006,
        "X_YY_QQlv": 0.08,
        "X_YY_QQtaulv": 0.015,
        "X_YY_QQtauhv": 0.05,
        "QCD": 0.25,
    }
)
"""Group to its share of Sophon's training sample; only ratios matter."""

JETCLASS: Final[tuple[str, ...]] = (
    *("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl"),
)
"""The classes of the original JetClass, one column ``label_<name>`` each (arXiv:2202.03772)."""

_CONTENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "b": "b",
        "c": "c",
        "s": "s",
        "light": "q",
        "gluon": "g",
        "electron": "e",
        "muon": "m",
        "tau_h": "tauh",
        "tau_e": "taue",
        "tau_mu": "taum",
        "neutrino": "v",
    }
)


def groups() -> dict[str, tuple[int, ...]]:
    """Return every group of Sophon with its labels, in the order of `GROUP_WEIGHTS`."""
    members: dict[str, list[int]] = {name: [] for name in GROUP_WEIGHTS}
    for label in LABELS:
        members[label.group].append(label.index)
    return {name: tuple(labels) for name, labels in members.items()}


def flavour_content(labels: Array | None = None) -> dict[str, Array]:
    """Count what jets were made of, for multi-label targets such as "at least two b".

    QCD labels count b, c and s quarks only, at most two of each. A τ counts as itself, not as the
    lepton or neutrinos that it decays to.

    Args:
        labels: Values of ``jet_label``, −1 = none; all 188 where None.

    Returns:
        ``b``, ``c``, ``s``, ``light``, ``gluon``, ``electron``, ``muon``, ``tau_h``, ``tau_e``,
        ``tau_mu``, ``neutrino`` → counts of the shape of `labels`, −1 where there is no label.

    Raises:
        ValueError: If a label is not one of the 188.
    """
    wanted = np.arange(len(LABELS)) if labels is None else np.asarray(labels)
    if wanted.size and (wanted.min() < -1 or wanted.max() >= len(LABELS)):
        wrong = wanted[(wanted < -1) | (wanted >= len(LABELS))].flat[0]
        raise ValueError(f"{wrong} is no label of JetClass-II: they go from 0 to {len(LABELS) - 1}")
    counted = [Counter(label.prongs) for label in LABELS]
    return {
        name: np.array([*(count[token] for count in counted), -1], np.int64)[wanted]
        for name, token in _CONTENT.items()
    }
