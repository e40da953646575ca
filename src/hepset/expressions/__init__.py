"""The language of selections and derived features: ``count(jets.pt > 30) >= 4``."""
