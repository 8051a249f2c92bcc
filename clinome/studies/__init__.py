"""Stories across domains: from a biobank's files to loci, and published results reproduced."""
