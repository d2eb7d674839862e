"""How properties are tested: within their time, unless every line is looked at."""

from __future__ import annotations

import sys

from hypothesis import settings

settings.register_profile("traced", deadline=None)
if sys.gettrace() is not None:  # make coverage, or a debugger
    settings.load_profile("traced")
