"""The parts of the assignment head: topology, tuples, network, loss, judgement, figures."""
