"""Prompts to trajectories: prompt sources, corruptions, pipelines, the recorder, the build."""
