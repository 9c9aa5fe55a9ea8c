"""Autoencoders: their networks, the priors that codes are brought to, how they are trained, and the
score that finds images odd."""
