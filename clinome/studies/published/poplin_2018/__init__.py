"""Age and sex (and here, dementia) from a picture, with soft attention (Poplin et al. 2018), on MR slices instead of eyes."""
