"""The whole cluster in one process: the same stages without sockets between them."""
