"""Deep phenotypes of whole pictures against the genome, by power on planted variants: Kirchler et al. 2022 (transferGWAS)."""
