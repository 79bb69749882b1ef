"""Scorers: anything that gives a prompt and what is known at a position a number, higher is better."""
