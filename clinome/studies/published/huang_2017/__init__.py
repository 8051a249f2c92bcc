"""Dense connections against a plain network on films of the chest: Huang et al. 2017 (DenseNet)."""
