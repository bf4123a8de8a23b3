"""Command-line programs; each parses its flags, calls the library and prints."""
