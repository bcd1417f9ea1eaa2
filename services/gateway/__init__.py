"""The public door: validates, strings the stages together, ends the life of what they stored."""
