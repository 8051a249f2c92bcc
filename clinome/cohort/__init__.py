"""Who is analysed: people linked across sources, covariates, ancestry, relatedness, splits, and who was dropped and why."""
