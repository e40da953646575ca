from __future__ import annotations

import pytest

from hepset.errors import ConfigurationError
from hepset_pythia.processes import PROCESS_NAMES, ProcessOptions, make_process
from hepset_pythia.randomness import Purpose, block_key, event_generator, pythia_seed
from hepset_pythia.settings import check_free_setting, split_setting


@pytest.mark.parametrize("name", [name for name in PROCESS_NAMES if name != "custom"])
def test_beam_mass_and_tune_are_pinned(name: str) -> None:
    settings = make_process(name).settings
    assert "Beams:eCM = 13600.0" in settings
    assert "6:m0 = 172.5" in settings
    assert "Tune:pp = 14" in settings


def test_misspelt_process_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'ttbar-semileptonic'"):
        make_process("ttbar-semileptonik")


def test_tau_is_an_option() -> None:
    without = make_process("ttbar-dileptonic").settings
    with_tau = make_process("ttbar-dileptonic", ProcessOptions(include_tau=True)).settings
    assert "24:onIfAny = 11 13" in without
    assert "24:onIfAny = 11 13 15" in with_tau


def test_semileptonic_alternates_the_charge() -> None:
    first, second = make_process("ttbar-semileptonic").alternatives
    assert first[1:] == ("24:onPosIfAny = 11 13", "24:onNegIfAny = 1 2 3 4 5")
    assert second[1:] == ("24:onPosIfAny = 1 2 3 4 5", "24:onNegIfAny = 11 13")


def test_pt_hat_has_a_default_only_where_the_process_needs_one() -> None:
    assert "PhaseSpace:pTHatMin = 100.0" in make_process("qcd").settings
    assert not any("pTHatMin" in setting for setting in make_process("hh4b").settings)
    raised = make_process("qcd", ProcessOptions(pt_hat_min=200.0)).settings
    assert "PhaseSpace:pTHatMin = 200.0" in raised


def test_custom_needs_settings_and_applies_them_last() -> None:
    with pytest.raises(ConfigurationError, match="switches nothing on"):
        make_process("custom")
    process = make_process("custom", ProcessOptions(settings=("HardQCD:hardbbbar = on",)))
    assert process.settings[-1] == "HardQCD:hardbbbar = on"


def test_settings_with_an_option_of_their_own_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="the option `seed`"):
        check_free_setting("Random:seed = 4")
    with pytest.raises(ConfigurationError, match="key = value"):
        split_setting("HardQCD:all")


def test_block_keys_differ_in_every_ingredient() -> None:
    keys = {
        block_key(identity, seed, block)
        for identity in ("a", "b")
        for seed in (1, 2)
        for block in (0, 1, 2)
    }
    assert len(keys) == 12
    assert all(1 <= pythia_seed(key) <= 900_000_000 for key in keys)


def test_random_numbers_belong_to_an_event_and_a_purpose() -> None:
    first = event_generator(5, Purpose.JETS, 3).standard_normal(8)
    again = event_generator(5, Purpose.JETS, 3).standard_normal(8)
    assert (first == again).all()
    for other in ((6, Purpose.JETS, 3), (5, Purpose.TAGS, 3), (5, Purpose.JETS, 4)):
        assert not (first == event_generator(*other).standard_normal(8)).any()
