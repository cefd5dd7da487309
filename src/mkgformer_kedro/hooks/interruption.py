"""A run that is told to stop says so in one line, and ends with the code that shells expect."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

from kedro.framework.hooks import hook_impl

_BEFORE = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_told: list[int] = []


class InterruptionHooks:
    """SIGINT and SIGTERM unwind the run: files under way are removed, and locks given back."""

    @hook_impl
    def after_context_created(self) -> None:
        """Listen, where a run does not begin with a command."""
        listen()

    @hook_impl
    def after_node_run(self) -> None:
        """Leave unsaved what a node made that went on where it was told to stop."""
        _end_if_told()

    @hook_impl(trylast=True)
    def on_pipeline_error(self) -> None:
        """End as told: native code makes an error of its own of what unwinds through it."""
        _end_if_told()


def listen() -> None:
    """Stop when told to, unless somebody else listens, such as a notebook."""
    if threading.current_thread() is not threading.main_thread():
        return
    _told.clear()
    for number, before in _BEFORE.items():
        if signal.getsignal(number) == before:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> Any:
    # A second signal stops at once.
    signal.signal(number, _BEFORE[signal.Signals(number)])
    name = signal.Signals(number).name
    print(f"\nStopped by {name}. The same command goes on from here.", file=sys.stderr)
    _told.append(number)
    _end_if_told()


def _end_if_told() -> None:
    if _told:
        sys.exit(128 + _told[-1])
