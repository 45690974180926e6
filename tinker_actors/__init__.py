"""A supervised runtime and client for the Tinker training API."""
