"""What a site has and says of itself: its facts, limits and GPUs, and whether a request can run there."""
