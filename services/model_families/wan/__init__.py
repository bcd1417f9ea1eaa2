"""Wan2.2-T2V-A14B: text to video, with an expert for high noise and one for low."""
