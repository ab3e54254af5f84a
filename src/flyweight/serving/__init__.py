"""The server: answers over HTTP from models that this machine runs."""
