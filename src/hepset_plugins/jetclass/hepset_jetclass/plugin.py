"""What hepset-jetclass adds to hepset."""

from __future__ import annotations

hepset_interface = 1
