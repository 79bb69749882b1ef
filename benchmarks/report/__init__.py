"""Results of one bench as a page of their own: leaderboard, plots and a viewer of trajectories."""
