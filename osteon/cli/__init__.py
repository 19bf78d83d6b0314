"""The command line: one module a group of commands, and the one place where roles are composed."""
