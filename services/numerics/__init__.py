"""Numerics that several model families share."""
