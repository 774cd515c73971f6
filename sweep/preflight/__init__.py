"""What the jobs of a sweep need, looked at before any of them is sent: inputs, programs, room in the store."""
