"""When a sweep ends and what holds it up: draws of what is left of its plan, under the limits of its cluster."""
