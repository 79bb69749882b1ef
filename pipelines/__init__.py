"""A diffusers pipeline: found, opened, called, watched and pruned; knows shards/ alone."""
