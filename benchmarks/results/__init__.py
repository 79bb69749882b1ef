"""Result files, their comparison, the leaderboard, tables and plots."""
