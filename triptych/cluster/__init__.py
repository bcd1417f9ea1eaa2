"""A cluster on this machine: its processes started, watched, restarted and ended."""
