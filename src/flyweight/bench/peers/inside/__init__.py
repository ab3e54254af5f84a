"""What runs inside the processes of engines, each file in the engine's own environment; only ``worker_loop`` is shared."""
