"""What the disk holds, what is still needed of it, and what `sweep gc` takes away."""
