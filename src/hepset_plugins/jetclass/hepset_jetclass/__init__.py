"""JetClass files, weaver configurations and the Particle Transformer for hepset."""
