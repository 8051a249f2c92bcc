"""Published results, made again: a folder each, with the claims (claims.toml), the script (study.py) and what we got (results/)."""
