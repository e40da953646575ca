"""How good assignments are: metrics, simple methods to compare with, figures."""
