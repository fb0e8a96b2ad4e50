# The demo that the README shows: it ends well, shows what it promises, twice in a row.
import os
import re
import subprocess

import pytest

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "contrib", "demo")


def run(tmp_path, *flags):
    p = subprocess.run([DEMO, *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=150, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert p.returncode == 0, p.stdout + p.stderr
    lines = [x for x in p.stdout.splitlines() if x.strip()]
    assert lines[-1].startswith("demo: OK"), p.stdout
    for shown in ("through the sni door", "through the connect door",
                  "the service answered 403: the measurement", "kbs.acme via tunnel"):
        assert shown in p.stdout, p.stdout
    assert len(re.findall("issued by: +CN=Acme's own CA", p.stdout)) == 2, p.stdout
    assert not os.listdir(tmp_path), "it left files behind"
    return p.stdout


def test_demo(tmp_path):
    out = run(tmp_path)
    if "three network namespaces" not in out:
        pytest.skip("network namespaces are not permitted")
    assert "compute -> 198.51.100.2:8080: no connection" in out
    assert "boundary -> 198.51.100.2:8080: no connection" in out
    run(tmp_path)


def test_on_loopback(tmp_path):
    assert "three network namespaces" not in run(tmp_path, "--loopback")
