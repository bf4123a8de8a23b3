"""Runs trackers over sequences and scores their boxes. Imports nothing."""

MAX_WORKERS = 8  # processes that a benchmark uses by default; each takes some 400 MB
