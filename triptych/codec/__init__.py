"""Between the domain's nouns and the messages of triptych.v1, by tables; loads no gRPC."""
