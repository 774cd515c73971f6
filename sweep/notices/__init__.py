"""Notices: what people are told of a sweep without asking, each event once, by command, webhook or mail."""
