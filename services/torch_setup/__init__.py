"""How a process that computes sets torch up."""
