"""Bodies and answers of every API: one file per API. They know neither HTTP nor the engine's thread."""
