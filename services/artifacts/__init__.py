"""Where finished media and uploaded pictures are kept, by tenant and for a time."""
