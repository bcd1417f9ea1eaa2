"""The nouns that client, gateway, stages and ranks share; loads neither torch nor grpc."""
