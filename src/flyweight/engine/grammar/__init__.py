"""Structured output: what an answer must look like, and the constraint that makes sure of it."""
