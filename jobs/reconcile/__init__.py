"""From evidence to decision: what attempts left, what the cluster says, the state of each job and what to do next."""
