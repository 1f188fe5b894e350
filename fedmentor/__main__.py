"""``python -m fedmentor`` is ``fedmentor``."""

from fedmentor.cli import main

main()
