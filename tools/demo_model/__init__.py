"""Builds, continues and judges the demo model: a tiny trained Qwen-Image checkpoint."""
