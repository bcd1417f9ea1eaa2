"""Tools of the people who work on Triptych; nothing here is installed."""
