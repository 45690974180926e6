"""The service as data: a function per endpoint that gives a `Call`. No I/O.

The whole API is here, with what no client calls, too: the service's health, a user's own key, telemetry.
"""
