"""``python -m inrreg.app.command_line``."""

from inrreg.app.command_line import main

main()
