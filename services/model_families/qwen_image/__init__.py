"""Qwen-Image, -Edit and -Layered: draw, edit pictures, and take them apart into layers."""
