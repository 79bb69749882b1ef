"""Trajectories recorded by other programs."""
