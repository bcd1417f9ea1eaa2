"""What a model family must offer the stages."""
