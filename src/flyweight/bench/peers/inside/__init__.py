"""What runs inside the processes of engines, in their own environments; only ``worker_loop`` is shared."""
