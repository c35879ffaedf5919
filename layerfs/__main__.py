"""`python -m layerfs`: the command line, where the script `layerfs` is not on the path."""

import sys

from layerfs.cli import entry

sys.exit(entry())
