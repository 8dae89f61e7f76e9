"""Fixtures that every test may ask for."""

from hypothesis import settings

pytest_plugins = ["tests.fixtures_os.repos", "tests.net.real_servers"]

# A busy machine is not a defect: time limits are the tests' own matter.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
