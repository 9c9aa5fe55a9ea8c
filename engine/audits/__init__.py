"""Attacks on what was promised: membership, epsilon, gradients, the model itself."""
