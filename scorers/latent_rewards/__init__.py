"""Published reward models that read noisy latents: they share a generator's latent space and know the noise level."""
