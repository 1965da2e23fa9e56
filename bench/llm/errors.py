# SPDX-License-Identifier: Apache-2.0
"""What the user of a script can put right, and how a script says it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """A condition that the user can put right; its text is all that is printed."""


def run(program: Callable[[], None]) -> int:
    """Return the exit status of a program, which says on standard error why it failed."""
    try:
        program()
    except (UserError, OSError, UnicodeDecodeError, NotImplementedError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
