"""Differential privacy: what a step may cost, what it did cost, and proof of neither more."""
