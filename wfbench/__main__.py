"""`python -m wfbench`."""

import sys

from wfbench.cli import main

sys.exit(main())
