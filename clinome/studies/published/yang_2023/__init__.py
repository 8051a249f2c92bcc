"""MedMNIST v2, PneumoniaMNIST: pneumonia or not on chest films of children, 28 × 28 pixels (Yang et al. 2023)."""
