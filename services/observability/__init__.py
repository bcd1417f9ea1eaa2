"""Structured logs: names and shapes defined once."""
