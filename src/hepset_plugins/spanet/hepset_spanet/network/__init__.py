"""SPANet 2.2's network, written from its description, with the parameter names of its checkpoints.

The modules take ``(batch, position, width)`` tensors and masks that are True where something is
real; SPANet's own order is position first.
"""

from __future__ import annotations

from hepset_spanet.network.network import SpanetNetwork, SpanetOutputs
from hepset_spanet.network.topology import Particle, SpanetInput, Topology

__all__ = ["Particle", "SpanetInput", "SpanetNetwork", "SpanetOutputs", "Topology"]
