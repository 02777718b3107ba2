"""Scenes larger than memory: read, restored and written in pieces."""
