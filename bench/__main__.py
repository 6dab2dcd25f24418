"""The entry point of `python -m bench`."""

import sys

from .command import main

sys.exit(main())
