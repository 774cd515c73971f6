"""One job of each shape goes first: what a shape is, the rule of a sweep, what to change where that job fails."""
