"""The fixture operating system: what it must hold for the other tests to mean anything."""
