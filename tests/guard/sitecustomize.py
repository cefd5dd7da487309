"""Stops a test, and every process that it starts, where the project would execute data.

Python calls this module at start where its folder is on the path; `conftest.py` sees to that.
"""

import sys
from collections.abc import Iterator


def _callers() -> Iterator[str]:
    """Modules of the functions that led to an event, the innermost first."""
    frame = sys._getframe().f_back.f_back
    while frame is not None:
        yield str(frame.f_globals.get("__name__"))
        frame = frame.f_back


def _watch(event: str, values: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        modules = list(_callers())
        # Processes of one run exchange objects of their own.
        exchanged = any(
            name.startswith(("torch.distributed", "multiprocessing", "ray.")) for name in modules
        )
        if not exchanged and any(name.startswith("mkgformer_kedro") for name in modules):
            raise RuntimeError(f"the project unpickles {'.'.join(map(str, values))}")
    elif event == "exec":
        caller = next(_callers(), "")
        if caller.startswith("mkgformer_kedro"):
            raise RuntimeError(f"{caller} executes {values[0]}")


sys.addaudithook(_watch)
