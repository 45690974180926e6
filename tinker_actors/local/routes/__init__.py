"""The HTTP endpoints, by group."""
