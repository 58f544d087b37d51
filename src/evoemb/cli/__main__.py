"""``python -m evoemb.cli``: the ``evoemb`` command without its script."""

import sys

from evoemb.cli import main

if __name__ == "__main__":
    sys.exit(main())
