"""The routes, one file per group: each translates between one API and the services, and knows no engine."""
