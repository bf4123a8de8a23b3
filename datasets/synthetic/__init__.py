"""Videos that are made up, with true boxes."""
