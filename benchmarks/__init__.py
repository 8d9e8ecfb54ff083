"""Measurements; every one is a command (README.md)."""
