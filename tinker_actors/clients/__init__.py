"""What callers touch: clients and futures. They build messages; the actors do the work."""
