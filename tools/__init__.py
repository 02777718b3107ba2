"""Tools of those who work on the library."""
