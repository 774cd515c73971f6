"""One small file a command: HELP, `add_arguments(parser)`, `run(options)` -> exit code."""
