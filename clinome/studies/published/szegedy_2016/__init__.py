"""Inception-v3 against a plain network on films of the chest: Szegedy et al. 2016."""
