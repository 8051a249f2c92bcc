"""Published architectures that predict from genotypes or covariates, one a file."""
