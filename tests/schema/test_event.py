from __future__ import annotations

from typing import Any

import pytest

from hepset.errors import ConfigurationError, EventInfoError
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature, guess_role
from hepset.schema.steps import transform_domain

TTBAR: dict[str, Any] = {
    "format": "hepset-event/1",
    "streams": {
        "jets": {
            "slots": 18,
            "order": "-pt",
            "features": {
                "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                "eta": {"transform": "standardise"},
                "phi": {"unit": "rad"},
                "mass": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                "btag": {},
            },
        }
    },
    "globals": {"met": {"features": {"pt": {"unit": "GeV"}, "phi": None}}},
    "particles": {"t1": {"b": "jets", "q1": "jets", "q2": "jets"}, "t2": ["b", "q1", "q2"]},
    "symmetries": {"event": [["t1", "t2"]], "t1": [["q1", "q2"]], "t2": [["q1", "q2"]]},
    "targets": {
        "signal": {"kind": "classification", "classes": ["background", "signal"]},
        "t1/mass": {"kind": "regression", "unit": "GeV"},
    },
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**TTBAR, **parts}


def test_the_pinned_example_loads() -> None:
    event = EventInfo.parse(TTBAR, "event.yaml")

    assert event.streams["jets"].momentum == {
        "pt": "pt", "eta": "eta", "phi": "phi", "mass": "mass",
    }  # fmt: skip
    assert event.process_names == [""]
    assert [a.tensor for a in event.assignments()] == [
        "target/assignment/t1",
        "target/assignment/t2",
    ]
    process = event.processes[""]
    assert process.event_group.order == 2
    assert process.product_group("t1").orbit_names == (("b",), ("q1", "q2"))
    assert process.particles["t2"] == {"b": None, "q1": None, "q2": None}


def test_phi_is_circular_unless_the_file_says_otherwise() -> None:
    event = EventInfo.parse(TTBAR, "event.yaml")
    assert event.streams["jets"].features["phi"].transform == ("circular",)
    assert event.globals["met"].features["phi"].transform == ("circular",)

    plain = changed(globals={"met": {"features": {"phi": {"transform": "standardise"}}}})
    assert EventInfo.parse(plain, "e").globals["met"].features["phi"].transform == ("standardise",)


def test_stored_event_loads_to_the_same() -> None:
    event = EventInfo.parse(TTBAR, "event.yaml")
    stored = event.model_dump(mode="json", exclude_none=True)
    assert EventInfo.parse(stored, "stored") == event


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pt", ("", "pt")),
        ("neutrino_px", ("neutrino", "px")),
        ("t1/mass", ("", "mass")),
        ("sin_phi", ("", "sin_phi")),
        ("met_cos_phi", ("met", "cos_phi")),
        ("btag", None),
        ("log_invariant_mass", ("log_invariant", "mass")),
    ],
)
def test_roles_from_names(name: str, expected: tuple[str, str] | None) -> None:
    assert guess_role(name) == expected


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"format": "hepset-event/2"}, "format 'hepset-event/2' is newer"),
        ({"straems": {}}, "straems: unknown key; did you mean 'streams'?"),
        (
            {"symmetries": {"t11": [["q1", "q2"]]}},
            "no particle 't11'; did you mean 't1'?",
        ),
        ({"particles": {"t1": {"b": "jet"}}, "symmetries": {}}, "no stream 'jet'; did you mean"),
        (
            {"particles": {"t1/a": ["b"]}, "symmetries": {}},
            "'t1/a': a particle or product is a string",
        ),
        ({"targets": {"x": {"kind": "regression", "classes": ["a", "b"]}}}, "has no classes"),
        ({"targets": {"x": {"kind": "classification", "classes": ["a", "a"]}}}, "given twice"),
        (
            {"targets": {"x": {"kind": "classification", "residuals": "laplace"}}},
            "no unit, transform or residuals",
        ),
        ({"targets": {"x": {"kind": "regression", "stream": "jet"}}}, "no stream 'jet'"),
        ({"targets": {"assignment/t": {"kind": "regression"}}}, "this name is reserved"),
        ({"streams": {"je ts": {"features": ["pt"]}}}, "letters, digits and '_'"),
        ({"globals": {"jets": {"features": ["pt"]}}}, "'jets': this stream or global is named"),
        ({"streams": {"jets": {"features": {}}}}, "at least one feature"),
        ({"streams": {"jets": {"features": ["pt"], "order": "-pT"}}}, "no feature 'pT'; did you"),
        ({"streams": {"jets": {"features": ["pt"], "p4": {"pt": "pt"}}}}, "not a four-momentum"),
    ],
)
def test_what_is_wrong_is_named(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(EventInfoError) as caught:
        EventInfo.parse(changed(**parts), "event.yaml", EventInfoError)
    assert message in str(caught.value)
    assert str(caught.value).startswith("event.yaml: ")


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        EventInfo.parse(
            {"streams": {"jets": {"slots": 0, "features": {"pt": {"transform": "lgo"}}}}}, "e"
        )
    assert "slots" in str(caught.value)
    assert "lgo" in str(caught.value)


@pytest.mark.parametrize(
    "transform",
    [["circular", "standardise"], ["standardise", "log1p"], ["log", "log1p"], ["log1p", "log1p"]],
)
def test_transforms_that_make_no_sense_are_refused(transform: list[str]) -> None:
    with pytest.raises(ValueError, match="transform"):
        Feature.model_validate({"transform": transform})


@pytest.mark.parametrize(
    "transform",
    [
        [{"affine": {"multiply": 0}}],
        [{"affine": {"multiply": float("inf")}}],
        [{"clip": [5, -5]}],
        [{"clip": [None, None]}],
        [{"clip": [float("nan"), 1]}],
        [{"clip": [0, 1], "affine": {}}],
        ["standardise", "log"],
        ["circular", {"clip": [0, 1]}],
        [{"affine": {"multiply": -1}}, "log"],
        [{"clip": [-3, 0]}, "log"],
    ],
)
def test_fixed_steps_that_make_no_sense_are_refused(transform: list[object]) -> None:
    with pytest.raises(ValueError, match=r"transform"):
        Feature.model_validate({"transform": transform})


def test_fixed_steps_load_and_store_to_the_same() -> None:
    features = {
        "a": {"transform": {"affine": {"subtract": 1.7, "multiply": 0.7}}},
        "b": {"transform": ["log", {"clip": [-5, float("inf")]}, "standardise"], "input": False},
    }
    event = EventInfo.parse({"streams": {"jets": {"features": features}}}, "e")
    found = event.streams["jets"].features
    assert [str(step) for step in found["a"].transform] == ["(x - 1.7) * 0.7"]
    assert [str(step) for step in found["b"].transform] == ["log", "clip(-5, –)", "standardise"]
    stored = event.model_dump(mode="json", exclude_none=True)
    assert stored["streams"]["jets"]["features"]["b"]["transform"][1] == {"clip": [-5, None]}
    assert EventInfo.parse(stored, "stored") == event
    assert "clip(-5, –) → standardise (no input)" in event._repr_html_()


@pytest.mark.parametrize(
    ("transform", "domain"),
    [
        ([], None),
        (["asinh"], None),
        (["log"], ("log", 0.0)),
        (["log1p", {"affine": {"subtract": 3}}], ("log1p", -1.0)),
        # (x - 3) * 2 > -1 where x > 2.5.
        ([{"affine": {"subtract": 3, "multiply": 2}}, "log1p"], ("log1p", 2.5)),
        ([{"clip": [1e-3, None]}, "log"], None),
        ([{"clip": [0, None]}, "log"], ("log", 0.0)),
        # 0.5 * x >= -0.5 after the clip, above the bound of log1p.
        ([{"clip": [-1, None]}, {"affine": {"multiply": 0.5}}, "log1p"], None),
        ([{"clip": [0, 1]}, "standardise"], None),
    ],
)
def test_what_a_logarithm_asks_of_the_physical_value(
    transform: list[object], domain: tuple[str, float] | None
) -> None:
    assert transform_domain(Feature.model_validate({"transform": transform}).transform) == domain


def test_html_escapes_names() -> None:
    document = changed(particles={"<t>": ["b"]}, symmetries={})
    assert "&lt;t&gt;" in EventInfo.parse(document, "e")._repr_html_()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": {"t": ["b", "b"]}}, "'b': this product is named twice"),
        ({"streams": {"jets": {"features": ["pt", "pt"]}}}, "'pt': this feature is named twice"),
        (
            {"particles": {"t": ["b", "q"], "s": ["b"]}, "symmetries": {"event": [["t", "s"]]}},
            "'t' with the products b, q and 's' with b cannot be interchanged",
        ),
        (
            {
                "particles": {"t": ["b", "q"], "s": ["q", "b"]},
                "symmetries": {"event": [["t", "s"]]},
            },
            "'t' with the products b, q and 's' with q, b cannot be interchanged",
        ),
        (
            {
                "streams": {"jets": {"features": ["pt"]}, "leptons": {"features": ["pt"]}},
                "particles": {"t": {"b": "jets"}, "s": {"c": "leptons"}},
                "symmetries": {"event": [["t", "s"]]},
            },
            r"b \(jets\) and 's' with c \(leptons\) cannot be interchanged",
        ),
        (
            {"streams": None, "globals": {"met": {"features": ["pt"]}}, "particles": {"t": ["b"]}},
            "no stream is declared",
        ),
    ],
)
def test_topologies_that_cannot_be_meant(change: dict[str, Any], message: str) -> None:
    document = {"streams": {"jets": {"features": ["pt"]}}, **change}
    with pytest.raises(EventInfoError, match=message):
        EventInfo.parse(document, "event.yaml", EventInfoError)


def test_interchangeable_particles_may_name_their_products_differently() -> None:
    document = {
        "streams": {"jets": {"features": ["pt"]}},
        "particles": {"h1": ["b1", "b2"], "h2": ["b3", "b4"]},
        "symmetries": {"event": [["h1", "h2"]]},
    }
    assert EventInfo.parse(document, "event.yaml").processes[""].event_group.order == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"axes": ["segment", "jets"]}, r"'segment' is no stream's: give its size"),
        ({"axes": ["jets"], "sizes": {"jets": 4}}, "leave it out of sizes"),
        ({"axes": ["a"], "sizes": {"b": 4}}, "sizes: no axis 'b'"),
        ({"pairs": "jest"}, "no stream 'jest'.*'jets'"),
        ({"pairs": "jets", "stream": "jets"}, "stream and pairs: a target has one of them"),
        ({"kind": "index", "unit": "GeV"}, "kind index has no classes, unit"),
        ({"axes": ["event"], "sizes": {"event": 2}}, "cannot be called 'event'"),
    ],
)
def test_axes_of_targets_are_checked(target: dict[str, Any], message: str) -> None:
    document = {
        "streams": {"jets": {"features": ["pt"]}},
        "targets": {"x": {"kind": "mask", **target}},
    }
    with pytest.raises(ConfigurationError, match=message):
        EventInfo.parse(document, "event.yaml")


def test_targets_without_own_axes_are_described_as_before() -> None:
    document = {"streams": {"jets": {"features": ["pt"]}}, "targets": {"x": {"kind": "regression"}}}
    (target,) = EventInfo.parse(document, "event.yaml").model_dump(mode="json")["targets"].values()
    assert not {"pairs", "axes", "sizes"} & set(target)
