"""Where events go: logs, metrics, OpenTelemetry."""
