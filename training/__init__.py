"""Training of scorers: NoisyCLIP, a VQA model for x0 estimates, probes."""
