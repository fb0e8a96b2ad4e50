import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import harness  # noqa: E402

harness.raise_nofile()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return harness.Certificates(str(tmp_path_factory.mktemp("pki")))


@pytest.fixture
def world(tmp_path, certificates):
    w = harness.World(tmp_path, certificates)
    yield w
    w.close()


@pytest.fixture(scope="module")
def module_world(tmp_path_factory, certificates):
    """For tests of a module that share their programs."""
    w = harness.World(tmp_path_factory.mktemp("m"), certificates)
    yield w
    w.close()


@pytest.fixture(autouse=True)
def programs_are_well():
    """After every test: whoever should run still runs, and no sanitizer has spoken."""
    yield
    for w in list(harness.World.all):
        w.check()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What the programs said last is part of a failure: it may not come again when asked for."""
    report = (yield).get_result()
    if call.when != "call" or not report.failed:
        return
    for w in list(harness.World.all):
        for p in w.programs:
            lines = p.log().splitlines()[-12:]
            report.sections.append((f"{p.name}: the end of its log", "\n".join(x[:400] for x in lines)))
