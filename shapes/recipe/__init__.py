"""How the embedded world was trained: one module a model, `make world` runs them all."""
