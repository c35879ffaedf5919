"""`python -m layerfs.fuse`: the server process of engine `python`; started by layerfs, not by hand."""

import sys

from layerfs.fuse.server import main

sys.exit(main())
