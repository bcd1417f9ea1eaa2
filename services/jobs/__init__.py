"""Jobs that outlive the call, and the process, that brought them."""
