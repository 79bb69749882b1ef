"""A bench and a scorer to score tables."""
