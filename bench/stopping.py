"""Ending on a signal: by the first one, in order; the others change nothing.

A closed terminal is as good a reason as Ctrl-C. What a shell started with a signal ignored (nohup,
a job in the background) goes on ignoring it.
"""
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_signals():
    """From now on the first of SIGNALS raises KeyboardInterrupt, once."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def no_more():
    """Whoever is ending what runs is not to be interrupted. A handler, as SIG_IGN is inherited."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


def _stop(number, frame):
    no_more()
    raise KeyboardInterrupt
