"""A vision transformer against a plain network on films of the chest: Dosovitskiy et al. 2021 (ViT)."""
