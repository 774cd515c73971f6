"""The documentation as a program: its commands are run, its outputs are compared, its site is built."""
