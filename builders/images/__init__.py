"""Images with captions, from files or the Hub, for the forward process."""
