"""``python -m amorsize_executor``: the command line."""

import sys

from amorsize_executor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
