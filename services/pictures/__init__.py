"""Pictures as requests carry them: encoded bytes, never a URL. Loads no torch."""
