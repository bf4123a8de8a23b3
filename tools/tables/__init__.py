"""The tables that tools/reproduce.py runs, of classifiers and of trackers."""
