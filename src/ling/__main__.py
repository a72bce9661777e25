"""`python -m ling`, and with it `torchrun -m ling`: the command line without its script."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
