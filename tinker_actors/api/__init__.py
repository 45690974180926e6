"""The service as data: a function per endpoint that gives a `Call`. No I/O."""
