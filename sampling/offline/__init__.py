"""Pruning policies replayed and tuned on recorded scores."""
