"""Large-R jets with their constituents, one entry per jet: the reader ``pythia-jets``."""
