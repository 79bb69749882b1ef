"""Trains scorers: NoisyCLIP."""
