"""Where stages leave tensors for one another; importing this package does not load torch."""
