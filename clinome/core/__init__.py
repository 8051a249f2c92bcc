"""What every room may use: the tables between rooms, the error tree, provenance, progress, and mapping over shards."""
