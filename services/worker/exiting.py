"""The end of a process that has a thread which waits for what it is told."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Call `main`, and end this process with the status that it returns, or with 1 when it raises.

    Python's own end would take standard input from the thread that reads it, and abort as it cannot.
    """
    status = 1
    try:
        status = main()
    except Exception:
        log.exception("the process ends for what nobody foresaw")
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
