"""A run that is told to stop says so in one line, and ends with the code that shells expect."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

from kedro.framework.hooks import hook_impl

_BEFORE = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class InterruptionHooks:
    """SIGINT and SIGTERM unwind the run: files under way are removed, and locks given back."""

    @hook_impl
    def after_context_created(self) -> None:
        """Listen, where a run does not begin with a command."""
        listen()


def listen() -> None:
    """Stop when told to, unless somebody else listens, such as a notebook."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, before in _BEFORE.items():
        if signal.getsignal(number) == before:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> Any:
    # A second signal stops at once.
    signal.signal(number, _BEFORE[signal.Signals(number)])
    name = signal.Signals(number).name
    print(f"\nStopped by {name}. The same command goes on from here.", file=sys.stderr)
    sys.exit(128 + number)
