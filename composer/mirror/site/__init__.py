"""The static site of a repository: what is published there, for people."""
