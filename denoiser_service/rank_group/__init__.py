"""What drives the ranks: their processes, their channels, and one reply for all of them."""
