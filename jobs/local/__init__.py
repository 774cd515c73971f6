"""One machine as a cluster: slots, processes, the loop that runs a plan."""
