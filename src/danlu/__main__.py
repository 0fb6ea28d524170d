"""`python -m danlu` is `danlu`."""

import sys

from danlu.cli import main

sys.exit(main())
