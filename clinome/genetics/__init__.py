"""Genotypes and traits to associations, loci and what they mean; tables in, tables out."""
