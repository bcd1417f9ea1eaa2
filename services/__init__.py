"""What the processes share, in named layers, and the gateway."""
