"""Fixtures that every test may ask for."""

import signal

from hypothesis import settings

pytest_plugins = ["tests.attacks", "tests.fixtures_os.repos", "tests.net.real_servers"]

# A shell ignores Ctrl-C for what it runs in the background, and children inherit that: tests
# that interrupt a command would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is not a defect: time limits are the tests' own matter.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
