"""Prompts of a build: from the embedded world, files or the Hub."""
