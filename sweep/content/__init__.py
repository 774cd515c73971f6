"""What local data hold: digests of their content, and where they are kept."""
