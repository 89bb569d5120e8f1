"""``python -m inrreg``: the command line."""

from inrreg.cli import main

if __name__ == "__main__":
    main()
