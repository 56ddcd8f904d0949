"""Whether everything is tested that rendered projects can be, or what stands for the rest.

``nox -s features`` sets ALL_SUITES, and CI runs it once a week.
"""

import os

THOROUGH = "ALL_SUITES" in os.environ
