"""Volumes learned from a few labelled slices: Çiçek et al. 2016 (3-D U-Net), on the Decathlon's hippocampus."""
