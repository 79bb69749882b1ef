"""Score tables of users and benches: one reader, and their layout as arrays."""
