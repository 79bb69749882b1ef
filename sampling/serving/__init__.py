"""A server of images in the protocol of OpenAI: requests share one engine."""
