"""Text for people: plan, status, explanation, history, doctor, checks of data."""
