"""HTTP: the application, what stands before it, and its routes."""
