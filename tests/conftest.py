"""How Hypothesis draws: the suite the same examples in each run, `make explore` new ones and many more.

So a commit is judged by what it changed, and a rare mistake is looked for on purpose, and not met by whoever comes by.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("suite")
