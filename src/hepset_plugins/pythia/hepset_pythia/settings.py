"""Pythia settings as text, checked before Pythia sees them.

Pythia itself reports an unknown setting on standard output and reads a malformed value as zero.
"""

from __future__ import annotations

import pythia8mc

from hepset.errors import ConfigurationError, did_you_mean

_FLAG_VALUES = ("on", "off", "yes", "no", "true", "false", "ok", "1", "0")
_OWN = {
    "random:seed": "the option `seed`",
    "random:setseed": "the option `seed`",
    "beams:ecm": "the option `beam_energy`",
    "6:m0": "the option `top_mass`",
}


def split_setting(text: str) -> tuple[str, str]:
    """Return the key and the value of one setting.

    Raises:
        ConfigurationError: If the text does not have the form ``key = value``.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key or not value:
        msg = f"Pythia setting {text!r} does not have the form 'key = value'"
        raise ConfigurationError(msg)
    return key, value


def check_free_setting(text: str) -> None:
    """Refuse a free setting that an option of the reader decides.

    Raises:
        ConfigurationError: If the setting is malformed or has an option of its own.
    """
    key, _ = split_setting(text)
    option = _OWN.get(key.lower().replace(" ", ""))
    if option is not None:
        msg = f"Pythia setting {text!r}: use {option} instead"
        raise ConfigurationError(msg)


def apply_setting(pythia: pythia8mc.Pythia, text: str) -> None:
    """Check one setting against Pythia's data base and apply it.

    Args:
        pythia: Not yet initialised, or between two events.
        text: The setting, ``key = value``.

    Raises:
        ConfigurationError: If Pythia has no such setting or the value has the wrong form.
    """
    key, value = split_setting(text)
    if key[0].isdigit() or key[0] == "-":
        _check_particle_setting(pythia, text, key, value)
    else:
        _check_setting(pythia.settings, text, key, value)
    if not pythia.readString(f"{key} = {value}"):
        msg = f"Pythia refused the setting {text!r}"
        raise ConfigurationError(msg)


def _check_setting(settings: pythia8mc.Settings, text: str, key: str, value: str) -> None:
    if settings.isFlag(key):
        if value.lower() not in _FLAG_VALUES:
            msg = f"Pythia setting {text!r}: {key} is a switch, write 'on' or 'off'"
            raise ConfigurationError(msg)
    elif settings.isMode(key) or settings.isParm(key):
        kind = int if settings.isMode(key) else float
        if not _is_number(value, kind):
            msg = f"Pythia setting {text!r}: {key} takes one {kind.__name__}, found {value!r}"
            raise ConfigurationError(msg)
    elif not any(
        test(key)
        for test in (
            settings.isWord,
            settings.isFVec,
            settings.isMVec,
            settings.isPVec,
            settings.isWVec,
        )
    ):
        msg = f"Pythia has no setting {key!r}{did_you_mean(key, _known(settings, key))}"
        raise ConfigurationError(msg)


def _check_particle_setting(pythia: pythia8mc.Pythia, text: str, key: str, value: str) -> None:
    code, _, name = key.partition(":")
    if not _is_number(code, int) or not pythia.particleData.isParticle(int(code)):
        msg = f"Pythia setting {text!r}: Pythia knows no particle {code!r}"
        raise ConfigurationError(msg)
    if name in {"m0", "mWidth", "mMin", "mMax", "tau0"} and not _is_number(value, float):
        msg = f"Pythia setting {text!r}: {name} takes one number, found {value!r}"
        raise ConfigurationError(msg)


def _known(settings: pythia8mc.Settings, key: str) -> list[str]:
    group = key.partition(":")[0] + ":"
    names: list[str] = []
    for table in (settings.getFlagMap, settings.getModeMap, settings.getParmMap):
        names += [entry.name for entry in table(group).values()]
    return names


def _is_number(text: str, kind: type[int] | type[float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
