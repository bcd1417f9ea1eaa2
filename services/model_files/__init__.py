"""A model's files as published: directories, weights, manifests, and the hub."""
