"""Pictures to latents and latents to media."""
