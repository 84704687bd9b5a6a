"""``python -m colony.cli``: the same as the console script ``colony``."""

from colony.cli.app import main

if __name__ == "__main__":
    main()
