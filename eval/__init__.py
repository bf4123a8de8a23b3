"""Runs trackers over sequences and scores their boxes."""
