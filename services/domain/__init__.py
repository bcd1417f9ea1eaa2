"""The nouns every process shares; standard library and pydantic only."""
