"""Diffusers pipelines: finding, loading, calling, recording and pruning. Imports only shards/."""
