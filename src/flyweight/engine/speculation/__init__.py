"""Speculative decoding: guesses of what follows, verified by the model in one step, at no cost to the answer."""
