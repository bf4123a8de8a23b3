"""System services for programs: files, signals, errors, and the environment of a result."""
