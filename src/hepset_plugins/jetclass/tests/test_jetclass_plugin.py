from __future__ import annotations

import hepset_jetclass.plugin


def test_the_plugin_speaks_this_interface() -> None:
    assert hepset_jetclass.plugin.hepset_interface == 1
