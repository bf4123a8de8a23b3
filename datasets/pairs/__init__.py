"""Training pairs: crops of targets in stores, and how pairs of them are drawn."""
