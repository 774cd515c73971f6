"""`sweep status NAME --watch`: a sweep on a terminal as it changes. Nothing else imports this room."""
