"""``python -m insights_py`` is ``insights``."""

from insights_py.cli import main

main()
