"""Signals wait for handlers: none is lost before the run can save, and none ends it while it leaves."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from plainloop.system.signals import SIGNALS, Preemption, signals_blocked, signals_collected


@pytest.fixture(autouse=True)
def the_mask_is_put_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    while signal.sigtimedwait(SIGNALS, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_signal_during_start_up_arrives_once_there_is_a_handler() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.raise_signal(signal.SIGUSR2)
    with Preemption() as preemption:
        assert preemption.requested == "SIGUSR2"


def test_a_signal_after_the_block_waits_again() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with Preemption():
        pass
    signal.raise_signal(signal.SIGTERM)  # would end this process
    assert signal.sigpending() == {signal.SIGTERM}


def test_two_signals_at_once_are_one_wish_named_after_the_first() -> None:
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested == "SIGUSR2"


def test_where_nothing_was_blocked_nothing_is_afterwards() -> None:
    with Preemption():
        pass
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []).isdisjoint(SIGNALS)


def test_a_blocked_signal_arrives_afterwards_and_all_are_collected_in_order() -> None:
    with signals_collected() as received:
        with signals_blocked():
            signal.raise_signal(signal.SIGUSR2)
            assert received == []
        signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGUSR2, signal.SIGINT]


def test_a_program_started_inside_keeps_them_blocked_and_one_started_outside_does_not() -> None:
    look = "import signal; print(*sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    command = [sys.executable, "-c", look]
    with signals_blocked():
        inside = subprocess.check_output(command, text=True).split()
    outside = subprocess.check_output(command, text=True).split()
    assert {int(number) for number in inside} - {int(number) for number in outside} == {int(n) for n in SIGNALS}
