"""The U-Net on vessels of the retina (DRIVE): Ronneberger et al. 2015, in the protocol of its later users."""
