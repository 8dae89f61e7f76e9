"""``python -m composer``: the same command as ``jigdo-composer``."""

from composer.cli.main import main

if __name__ == "__main__":
    main()
