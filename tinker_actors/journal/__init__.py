"""What a run remembers: records, the SQLite store that keeps them, and what follows from them."""
