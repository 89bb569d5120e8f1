"""``python -m inrreg``: the command line."""

from inrreg.app.command_line import main

if __name__ == "__main__":
    main()
