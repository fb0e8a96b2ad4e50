# What contrib/ shows for qgs-bridge is taken by qgs-bridge: every config; libvirt's hook, and the
# drop-ins that it writes.
import glob
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

from harness import ROOT, binary, wait_for
from node import Node
from streams import Aborted, dial, roundtrip

CONTRIB = os.path.join(ROOT, "contrib")
HOOK = os.path.join(CONTRIB, "libvirt", "hook")
UUID = "6a1f4b0e-52a5-4c2e-9d2f-2f0c1a9e7b11"
NAMESPACE = "urn:attest-relay:1"


# ---- configs ----

def configs():
    """Those for qgs-bridge among contrib/**/*.yaml, and one in a ConfigMap; and their names."""
    found = {}
    for path in glob.glob(os.path.join(CONTRIB, "**", "*.yaml"), recursive=True):
        with open(path) as f:
            text = f.read()
        name = os.path.relpath(path, CONTRIB)
        if os.path.basename(path) == "qgs-bridge.yaml":
            found[name] = text
        for document in yaml.safe_load_all(text):
            if document.get("kind") == "ConfigMap":
                found.update({f"{name}: {k}": v for k, v in document["data"].items()})
    return found


@pytest.mark.parametrize("name", sorted(configs()))
def test_config(world, name):
    text = configs()[name]
    certificate, key = world.certificates.relay
    for source, to in ((certificate, "node.pem"), (key, "node.key"), (world.certificates.ca, "ca.pem")):
        shutil.copy(source, world.path(to))
    with open(world.path("qgs-bridge.yaml"), "w") as f:
        f.write(text)
    told = subprocess.run([binary("ATTEST_BRIDGE"), "--check-config", "--config",
                           world.path("qgs-bridge.yaml")], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert yaml.safe_load(text)["listeners"]


def test_all_are_found():
    assert {"qgs-bridge.yaml", "libvirt/qgs-bridge.yaml", "kata/qgs-bridge.yaml",
            "kubevirt/daemonset.yaml: qgs-bridge.yaml"} <= set(configs())


def test_daemonset():
    """It is YAML, and what it mounts, runs and probes is what its own config says."""
    with open(os.path.join(CONTRIB, "kubevirt", "daemonset.yaml")) as f:
        documents = {d["kind"]: d for d in yaml.safe_load_all(f)}
    config = yaml.safe_load(documents["ConfigMap"]["data"]["qgs-bridge.yaml"])
    pod = documents["DaemonSet"]["spec"]["template"]["spec"]
    container, = pod["containers"]
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    for address in [config["qgs"]["address"], *(x["address"] for x in config["listeners"])]:
        kind, path = address.split(":", 1)
        assert kind == "unix" and os.path.dirname(path) in mounts, address
    at = container["args"][container["args"].index("--config") + 1]
    assert os.path.dirname(at) in mounts
    assert os.path.basename(at) in documents["ConfigMap"]["data"]
    port, = container["ports"]
    assert config["metrics"].endswith(f":{port['containerPort']}")
    assert documents["DaemonSet"]["metadata"]["namespace"] == documents["Namespace"]["metadata"]["name"]
    with open(os.path.join(CONTRIB, "kubevirt", "kubevirt-patch.yaml")) as f:
        assert yaml.safe_load(f)


# ---- libvirt's hook ----

class Libvirt:
    """Calls the hook as libvirt does."""

    def __init__(self, world, vms="vms.d", sockets="vms"):
        self.vms, self.sockets = world.path(vms), world.path(sockets)

    def make_folders(self):
        os.mkdir(self.vms)
        os.mkdir(self.sockets)

    def call(self, name, operation, xml, status=0):
        told = subprocess.run(
            [HOOK, name, operation, "begin", "-"], input=xml.encode(), capture_output=True,
            env={"PATH": os.environ["PATH"], "QGS_BRIDGE_VMS_DIR": self.vms,
                 "QGS_BRIDGE_SOCKETS": self.sockets}, timeout=30)
        assert told.returncode == status, told.stderr
        assert told.stdout == b""
        return told.stderr.decode()

    def drop_in(self, uuid=UUID):
        try:
            with open(os.path.join(self.vms, f"{uuid}.yaml")) as f:
                return yaml.safe_load(f)
        except FileNotFoundError:
            return None


def domain(name="guest1", service="echo.acme", uuid=UUID, cid=None):
    """The domain of the example, as libvirt passes it."""
    root = ElementTree.parse(os.path.join(CONTRIB, "libvirt", "domain.xml")).getroot()
    root.find("name").text = name
    if uuid:
        ElementTree.SubElement(root, "uuid").text = uuid
    asked = root.find(f"metadata/{{{NAMESPACE}}}service")
    if service is None:
        root.find("metadata").remove(asked)
    else:
        asked.text = service
    if cid is not None:
        root.find("devices/vsock/cid").set("address", cid)
    return ElementTree.tostring(root, encoding="unicode")


@pytest.fixture
def libvirt(world):
    found = Libvirt(world)
    found.make_folders()
    return found


def test_hook_and_bridge(world, libvirt):
    """prepare makes the socket's folder, started says whose service, release takes both back."""
    node = Node(world, [{"name": "serial", "address": f"unix:{libvirt.sockets}/*/attest.socket",
                         "forward": "by-vm"}], vms_dir=libvirt.vms)
    path = os.path.join(libvirt.sockets, "guest1", "attest.socket")
    assert libvirt.call("guest1", "prepare", domain()) == ""
    wait_for(lambda: os.path.exists(path), "the domain's socket")
    assert libvirt.drop_in() is None
    assert libvirt.call("guest1", "started", domain(cid="42")) == ""
    assert libvirt.drop_in() == {"vms": [
        {"vm": "domain:guest1", "service": "echo.acme"},
        {"vm": "name:guest1", "service": "echo.acme"}, {"cid": "42", "service": "echo.acme"}]}

    def served():
        with dial(f"unix:{path}") as guest:
            try:
                roundtrip(guest, b"hello")
                return True
            except (Aborted, AssertionError):
                return False
    wait_for(served, "the drop-in is in effect")
    assert libvirt.call("guest1", "release", domain()) == ""
    wait_for(lambda: not os.path.exists(os.path.dirname(path)), "the folder is gone")
    node.bridge.wait_metric("sockets", lambda n: n == 0)
    assert libvirt.drop_in() is None
    assert os.listdir(libvirt.vms) == []
    # and the same domain once more, of which libvirtd was told after a restart
    libvirt.call("guest1", "prepare", domain())
    libvirt.call("guest1", "reconnect", domain())
    wait_for(lambda: os.path.exists(path), "the domain's socket")
    wait_for(served, "the drop-in is in effect again")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: another user's folders")
def test_hook_for_a_bridge_that_is_not_root(libvirt):
    """As packaged: libvirt calls the hook as root, and the bridge has a user of its own."""
    os.chown(libvirt.sockets, 4711, 4712)
    umask = os.umask(0o077)  # libvirt's
    try:
        for operation in "prepare", "started":
            assert libvirt.call("guest1", operation, domain()) == ""
    finally:
        os.umask(umask)
    st = os.stat(os.path.join(libvirt.sockets, "guest1"))
    assert (st.st_uid, st.st_gid, st.st_mode & 0o777) == (4711, 4712, 0o755)
    st = os.stat(os.path.join(libvirt.vms, f"{UUID}.yaml"))
    assert (st.st_uid, st.st_mode & 0o777) == (0, 0o644)


def test_hook_follows_no_links(world, libvirt):
    """Whoever may write to its folders does not have root write, or give away, what he likes."""
    os.mkdir(world.path("elsewhere"))
    with open(world.path("file"), "w") as f:
        f.write("somebody's")
    before = os.stat(world.path("elsewhere"))
    os.symlink(world.path("elsewhere"), os.path.join(libvirt.sockets, "guest1"))
    os.symlink(world.path("file"), os.path.join(libvirt.vms, f".{UUID}.yaml"))
    os.symlink(world.path("file"), os.path.join(libvirt.vms, f"{UUID}.yaml"))
    for operation in "prepare", "started":
        assert libvirt.call("guest1", operation, domain()) == ""
    assert libvirt.drop_in() and os.listdir(libvirt.vms) == [f"{UUID}.yaml"]
    assert libvirt.call("guest1", "release", domain()) == ""
    with open(world.path("file")) as f:
        assert f.read() == "somebody's"
    after = os.stat(world.path("elsewhere"))
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert os.listdir(libvirt.vms) == []


@pytest.mark.parametrize("service", [
    "kbs", "kbs.acme.more", "", "  ", "-kbs.acme", "kbs.acme\n  - { vm: \"*\", service: evil.acme }",
    "kbs.acme }", "k" * 64 + ".acme", "kbs.acme # x", "ä.acme",
    "kb\u017f.acme"])
def test_hook_leaves_out_bad_services(libvirt, service):
    told = libvirt.call("guest1", "started", domain(service=service))
    assert "is no service" in told, told
    assert os.listdir(libvirt.vms) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "-x", "a b", "x\n", "n" * 64, "ü"])
def test_hook_leaves_out_bad_names(world, libvirt, name):
    for operation in "prepare", "started", "release":
        told = libvirt.call(name, operation, domain())
        assert "nothing is written" in told, told
    assert os.listdir(libvirt.vms) == os.listdir(libvirt.sockets) == []
    assert sorted(os.listdir(world.folder)) == ["vms", "vms.d"]


@pytest.mark.parametrize("uuid", [None, "../../x", "6a1f4b0e"])
def test_hook_leaves_out_bad_uuids(libvirt, uuid):
    assert "nothing is written" in libvirt.call("guest1", "started", domain(uuid=uuid))
    assert os.listdir(libvirt.vms) == []


@pytest.mark.parametrize("cid", ["x", "4 2", "-1", "42\" }", "٤٢", "99999999999", "4294967295",
                                 "2"])
def test_hook_leaves_out_bad_cids(libvirt, cid):
    libvirt.call("guest1", "started", domain(cid=cid))
    assert [v["vm"] for v in libvirt.drop_in()["vms"]] == ["domain:guest1", "name:guest1"]


@pytest.mark.parametrize("cid", ["3", "4294967294", "9999999999"])
def test_what_the_hook_writes_is_valid(world, libvirt, cid):
    """Whatever passes its own checks, qgs-bridge's reading takes, or the domain would have none."""
    libvirt.call("Guest_1.x-y", "started", domain(cid=cid, service=" KBS.acme "))
    with open(world.path("bridge.yaml"), "w") as f:
        yaml.safe_dump({
            "listeners": [{"name": "a", "address": f"unix:{world.path('a')}", "forward": "by-vm"}],
            "relay": {"addresses": ["tcp:127.0.0.1:1"]},
            # as a list of the main file it is checked in the same way
            "vms": libvirt.drop_in()["vms"]}, f)
    told = subprocess.run([binary("ATTEST_BRIDGE"), "--check-config", "--config",
                           world.path("bridge.yaml")], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert {v["service"] for v in libvirt.drop_in()["vms"]} == {"kbs.acme"}


def test_hook_without_a_service(libvirt):
    assert libvirt.call("guest1", "started", domain(service=None)) == ""
    assert os.listdir(libvirt.vms) == []


def test_hook_never_keeps_a_domain_from_starting(world):
    """Folders that are not there, XML that is none, operations that are not ours."""
    libvirt = Libvirt(world)
    assert libvirt.call("guest1", "prepare", domain()) == ""
    assert "vms_dir" in libvirt.call("guest1", "started", domain())
    libvirt.call("guest1", "release", domain())
    assert libvirt.call("guest1", "started", "this is no XML")
    assert libvirt.call("guest1", "migrate", "this is no XML") == ""
    assert os.listdir(world.folder) == []
