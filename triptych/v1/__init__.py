"""Generated from protos/triptych/v1; run `make protos` to regenerate."""
