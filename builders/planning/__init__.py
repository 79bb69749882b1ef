"""What a build will cost, before anything is loaded or generated."""
