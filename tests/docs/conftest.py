"""The build hooks of the site are modules in docs/hooks; mkdocs puts that folder on the path, and so do the tests."""

from __future__ import annotations

import sys
from pathlib import Path

HOOKS = str(Path(__file__).parents[2] / "docs" / "hooks")
if HOOKS not in sys.path:
    sys.path.append(HOOKS)
