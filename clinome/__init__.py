"""Clinome: deep learning in computational medicine, from field formats to predictions and loci."""

__version__ = "0.2.0"
