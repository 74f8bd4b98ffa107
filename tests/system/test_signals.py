"""Signals that are held back arrive late, and only where they are meant to."""

import signal
import subprocess
import sys

from plainloop.system.signals import SIGNALS, signals_blocked


def test_a_blocked_signal_arrives_afterwards():
    received = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    try:
        with signals_blocked():
            signal.raise_signal(signal.SIGUSR2)
            inside = list(received)
        assert (inside, received) == ([], [signal.SIGUSR2])
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_program_started_inside_keeps_them_blocked_and_one_started_outside_does_not():
    look = "import signal; print(*sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    command = [sys.executable, "-c", look]
    with signals_blocked():
        inside = subprocess.check_output(command, text=True).split()
    outside = subprocess.check_output(command, text=True).split()
    assert {int(number) for number in inside} - {int(number) for number in outside} == {int(n) for n in SIGNALS}
