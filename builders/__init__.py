"""From prompts to trajectories: prompts, images, corruptions, planning, imports and the build."""
