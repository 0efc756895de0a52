"""``python -m stagevar``: the command line."""

from stagevar.cli import main

main()
