"""weaver's data configuration: its grammar, its expressions, what they become in hepset."""
