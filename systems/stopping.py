"""Ctrl-C and SIGTERM as a request: what runs finishes its step and saves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Self


class StopRequest:
    """Whether somebody asked to stop, from `listen` to `release`, or inside a `with` block.

    A second Ctrl-C raises KeyboardInterrupt. What is given back is what handled the signals when the request was made.
    Outside the main thread Python has no signals, and nothing is done.
    """

    def __init__(self) -> None:
        self.is_made = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        self._before = {number: signal.getsignal(number) for number in numbers}

    def listen(self, heard: Callable[[], None] = lambda: None) -> None:
        """Take over the signals; `heard` is called at each that does not end the program."""

        def stop(number: int, frame: object) -> None:
            if self.is_made and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.is_made = True
            heard()

        for number in self._before:
            signal.signal(number, stop)

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
