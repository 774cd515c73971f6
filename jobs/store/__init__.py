"""What is on disk: paths, records, results, the ledger, and checks of all of them."""
