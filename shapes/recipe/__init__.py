"""How the embedded world was trained: one module per model, all run by `make world`."""
