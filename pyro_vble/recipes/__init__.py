"""Training recipes as YAML files, by name."""
