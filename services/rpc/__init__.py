"""gRPC plumbing shared by every process: servers, clients, conversion, errors."""
