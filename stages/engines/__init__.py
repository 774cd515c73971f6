"""Other programs that carry a stage out, on a checkout and an interpreter of the user's (docs/add-an-engine.md)."""
