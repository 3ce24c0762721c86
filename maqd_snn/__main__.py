"""`python -m maqd_snn`: the command line, as torchrun starts it."""

import sys

from maqd_snn.cli import main

if __name__ == "__main__":
    sys.exit(main())
