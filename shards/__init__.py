"""Trajectories on disk: schema, Parquet shards, the data set folder, its reader, score tables. No torch here."""
