"""Biobanks with known truth, written as real files; nothing here knows the code that will analyse them."""
