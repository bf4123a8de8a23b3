"""What programs need of the system: files, signals, errors, and what a result was made with."""
