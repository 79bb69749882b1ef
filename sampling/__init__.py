"""Online use: pruning while sampling, Best-of-N, the monitor; policies and their replay on recorded scores."""
