"""Compose RPM packages into OSTree commits, and ship those commits as jigdo sets."""

__version__ = "0.1.0"
