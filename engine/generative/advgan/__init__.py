"""AdvGAN (Xiao et al. 2018): its networks, how they are trained, and the attack."""
