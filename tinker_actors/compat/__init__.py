"""What other software expects of a training service, and ours in that shape."""
