"""Tables and timings. The library imports nothing from here."""
