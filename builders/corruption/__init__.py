"""Near-miss captions: what an engine changes in a caption, and the run that writes them to a file."""
