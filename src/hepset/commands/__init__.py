"""The commands of the command line, one module each, imported when they are typed.

A command becomes known by its line in `hepset.plugins.builtin.COMMANDS`.
"""

from __future__ import annotations
