"""`python -m sparsewood`."""

import sys

from sparsewood.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
