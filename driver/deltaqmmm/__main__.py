"""`python -m deltaqmmm` is the command `deltaqmmm`."""

import sys

from deltaqmmm.cli.main import main

sys.exit(main())
