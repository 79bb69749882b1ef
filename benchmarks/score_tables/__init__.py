"""Score tables: what anyone hands in, read in one way, and laid out as arrays."""
