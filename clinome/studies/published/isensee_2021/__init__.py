"""Head and body of the hippocampus in MRI by a network planned from the data: Isensee et al. 2021 (nnU-Net)."""
