"""`python -m sparsewood`."""

from sparsewood.run.cli import main

if __name__ == "__main__":
    main()
