"""Images on their way into the model: encoders, transforms, kept features."""
