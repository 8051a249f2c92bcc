"""Residual networks against plain ones on films of the chest: He et al. 2016 (ResNet)."""
