"""Training data: token shards, captioned images, conversations, and their mixture into batches."""
