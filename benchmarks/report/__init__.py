"""The HTML page on one bench: leaderboard, plots and a viewer of trajectories."""
