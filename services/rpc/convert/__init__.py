"""Between wire messages and domain types, in both directions; the wire stops here."""
