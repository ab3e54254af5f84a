"""``python -m flyweight`` is the command ``flyweight``."""

import sys

from flyweight.cli import main

sys.exit(main())
