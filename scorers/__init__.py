"""Scorers: each rates how well a candidate at a position matches its prompt; higher is better."""
