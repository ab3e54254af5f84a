"""How good a model is, and how far from the original: perplexity, divergence, golden answers, gates, inspection."""
