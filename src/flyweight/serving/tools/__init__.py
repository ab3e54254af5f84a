"""Tool calls: how each family of models writes them, read as they come and forced where they must."""
