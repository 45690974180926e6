"""The embedded server: a small, real Tinker service that needs no key, no network and no GPU."""
