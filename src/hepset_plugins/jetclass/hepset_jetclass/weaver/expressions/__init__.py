"""weaver's expressions in the words of hepset's, or a message that says why not.

weaver hands its expressions to Python's ``eval`` with numpy, awkward and its own helpers. Here they
are parsed, and every part that has a meaning per event or per object is written in hepset's
language (`hepset.expressions.language`); what mixes events, or reorders objects, is refused.
"""

from __future__ import annotations

from hepset_jetclass.weaver.expressions.translator import Translator
from hepset_jetclass.weaver.expressions.words import MODULES, RESERVED

__all__ = ["MODULES", "RESERVED", "Translator"]
