# A VM for tests: its initramfs is put together, it is booted, what its checks say is read.
#
# The guest says on its second serial port, one line each:
#     ok NAME (SECONDS)
#     not ok NAME: WHY
#     # anything                    belongs to the result before it
#     end                           all checks have been made
# Its first serial port is the console, kept in a file. A check of which nothing is heard has failed.
# QEMU emulates the processor (TCG): slow, but the same on every machine.
import hashlib
import lzma
import os
import re
import secrets
import selectors
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("VM_BUILD") or os.path.join(ROOT, "build-vm")
KERNEL = os.path.join(BUILD, "kernel")
QEMU = "/usr/bin/qemu-system-x86_64"
# vsock with its loopback, in the order of loading
LOOPBACK = ["vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"]


def kernel():
    """
    The kernel unpacked, which starts in less than half the time; as Debian packs it, if that is
    not by xz.
    """
    packed, unpacked = os.path.join(KERNEL, "vmlinuz"), os.path.join(KERNEL, "vmlinux")
    if os.path.exists(unpacked):
        return unpacked
    with open(packed, "rb") as f:
        image = f.read()
    at = image.find(b"\xfd7zXZ\0")
    if at < 0:
        return packed
    elf = lzma.LZMADecompressor().decompress(image[at:])
    assert elf.startswith(b"\x7fELF"), f"what is packed in {packed} is no kernel"
    with open(unpacked + ".new", "wb") as f:
        f.write(elf)
    os.rename(unpacked + ".new", unpacked)
    return unpacked


class Image:
    """The files of an initramfs."""

    def __init__(self, name):
        self.folder = os.path.join(BUILD, "images", name)
        self.path = self.folder + ".cpio"
        shutil.rmtree(self.folder, ignore_errors=True)
        for d in ("bin", "dev", "proc", "sys", "run", "tmp", "etc", "modules"):
            os.makedirs(os.path.join(self.folder, d))
        os.symlink("../bin", os.path.join(self.folder, "sbin"))
        self.file("/this-is-a-test-vm", "")
        self.program("/usr/bin/busybox" if os.path.exists("/usr/bin/busybox") else "/bin/busybox",
                     "/bin/busybox")
        os.symlink("busybox", os.path.join(self.folder, "bin/sh"))

    def at(self, path):
        path = os.path.join(self.folder, path.lstrip("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def file(self, path, text, mode=0o644):
        with open(self.at(path), "w") as f:
            f.write(text)
        os.chmod(self.at(path), mode)

    def copy(self, source, path):
        if not os.path.exists(self.at(path)):
            shutil.copy(source, self.at(path))

    def libraries(self, source):
        """What ldd says it needs, at the same paths."""
        told = subprocess.run(["ldd", source], capture_output=True, text=True).stdout
        assert "not found" not in told, told
        for path in re.findall(r"(/\S+) \(0x", told):
            self.copy(path, path)

    def program(self, source, path=None):
        self.copy(source, path or "/bin/" + os.path.basename(source))
        self.libraries(source)

    def built(self, *names):
        for name in names:
            found = [os.path.join(d, name) for d, _, files in os.walk(BUILD)
                     if name in files and not d.startswith(os.path.join(BUILD, "images"))]
            assert len(found) == 1, f"{name} in {BUILD}: {found or 'not built'}"
            self.program(found[0])

    def script(self, name, path):
        """From guest/."""
        shutil.copy(os.path.join(HERE, "guest", name), self.at(path))
        os.chmod(self.at(path), 0o755)

    def scripts(self, checks, *others):
        """init, the checks that it starts, and what those source."""
        self.script("init", "/init")
        self.script(checks, "/checks")
        for name in others:
            self.script(name, "/" + name)

    def modules(self, names, folder="/modules"):
        """With a list of them in the order of loading."""
        found = {}
        for d, _, files in os.walk(os.path.join(KERNEL, "lib")):
            for f in files:
                found[f.split(".")[0].replace("-", "_")] = os.path.join(d, f)
        for name in names:
            opened = lzma.open if found[name].endswith(".xz") else open
            with opened(found[name], "rb") as f, open(self.at(f"{folder}/{name}.ko"), "wb") as to:
                shutil.copyfileobj(f, to)
        self.file(f"{folder}/order", "".join(f"{name}\n" for name in names))

    def pack(self):
        """Not compressed: that would cost the emulated machine more than it saves."""
        with open(self.path, "wb") as out:
            names = subprocess.run(["find", "."], cwd=self.folder, check=True, stdout=subprocess.PIPE)
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=self.folder,
                           check=True, input=names.stdout, stdout=out)
        return self.path


class Results:
    """What a VM said."""

    def __init__(self):
        self.checks = {}   # name: None when ok, else why not
        self.ended = False
        self.how = "it has not been started"
        self.lines = []
        self.console = ""

    def line(self, text):
        self.lines.append(text)
        m = re.match(r"ok (\S+)|not ok (\S+): ?(.*)", text)
        if m:
            self.checks[m[1] or m[2]] = None if m[1] else m[3] or "it did not say why"
        elif text == "end":
            self.ended = True

    def tail(self):
        return (f"\n--- the VM: {self.how}\n" + "\n".join(self.lines[-120:])
                + f"\n--- the end of its console:\n{self.console[-3000:]}")

    def expect(self, name):
        assert name in self.checks, f"{name}: the VM said nothing of it{self.tail()}"
        assert self.checks[name] is None, f"{name}: {self.checks[name]}{self.tail()}"


def boot(image, limit, memory=768, more=()):
    """Boots it, and returns what it said when it is off. It has limit seconds. more: devices."""
    results = Results()
    console = image.folder + ".console"
    start = time.monotonic()
    qemu = subprocess.Popen(
        [QEMU, "-accel", "tcg", "-M", "pc", "-cpu", "max", "-smp", "2", "-m", str(memory),
         "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
         "-serial", f"file:{console}", "-serial", "stdio",
         "-kernel", kernel(), "-initrd", image.pack(),
         "-append", "console=ttyS0 quiet panic=-1", *more],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    results.how = "it was off before it said 'end'"
    try:
        with selectors.DefaultSelector() as s:
            s.register(qemu.stdout, selectors.EVENT_READ)
            rest = b""
            while True:
                if time.monotonic() - start > limit:
                    results.how = f"it was ended: it had not finished within {limit} s"
                    break
                if not s.select(timeout=1):
                    continue
                got = os.read(qemu.stdout.fileno(), 65536)
                if not got:
                    break
                *lines, rest = (rest + got).split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace").rstrip("\r")
                    print(f"  {time.monotonic() - start:6.1f} {text}", file=sys.stderr, flush=True)
                    results.line(text)
    finally:
        qemu.kill()
        qemu.wait()
        qemu.stdout.close()
        if os.path.exists(console):
            with open(console, errors="replace") as f:
                results.console = f.read()
    if results.ended:
        results.how = f"it ran {time.monotonic() - start:.1f} s"
    return results


def bridge_config():
    """QGS by its Unix socket; limits so wide that one CID may be 200 clients."""
    return {
        "listeners": [{"name": "vsock", "address": "vsock:any:4050"}],
        "qgs": {"address": "unix:/run/qgs.sock"},
        "timeouts": {"drain": "10s"},
        "limits": {"connections_per_vm": 512, "queue_per_vm": 512, "rate_per_vm": 10000,
                   "burst_per_vm": 10000},
    }


def credentials(image):
    """For a relay and an agent in the VM: /etc/relay.pem, .key, /etc/token; the token's hash."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-keyout", image.at("/etc/relay.key"), "-out", image.at("/etc/relay.pem"),
                    "-days", "30", "-subj", "/CN=relay.test", "-addext", "subjectAltName=DNS:relay.test"],
                   check=True, capture_output=True)
    token = "art_" + secrets.token_urlsafe(32)
    image.file("/etc/token", token + "\n", 0o600)
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()
