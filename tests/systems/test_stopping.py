"""Requests to stop: the first is noted, the second Ctrl-C ends, and the signals go back to who had them."""

from __future__ import annotations

import signal
import threading

import pytest

from systems.stopping import StopRequest


def test_the_first_signal_is_noted_and_a_second_ctrl_c_ends() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    heard: list[int] = []
    request = StopRequest()
    request.listen(lambda: heard.append(1))
    try:
        assert not request.is_made
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert request.is_made and len(heard) == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        request.release()
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_block_gives_the_signals_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest() as request:
        signal.raise_signal(signal.SIGTERM)
        assert request.is_made
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_have_no_signals() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopRequest() as request:
            seen.append(request.is_made)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
