"""Control plane: sweep file, grid, chains, manifest, cost, reconcile, results, commands. Never imports torch."""
