"""`python -m inferno` is the command."""

import sys

from inferno.cli.main import main

sys.exit(main())
