"""Where events go: logs."""
