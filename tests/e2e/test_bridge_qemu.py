# QEMU's own chardevs as guests of qgs-bridge: a serial port that QEMU connects to the bridge, and one
# at which QEMU listens. The guest is a boot sector; QEMU emulates its processor (TCG).
import os
import random
import re
import shutil
import subprocess

import pytest

from harness import Program, missing, wait_for
from node import Node
from streams import Aborted

QEMU = "/usr/bin/qemu-system-x86_64"
HELLO = b"hello from the guest\n"
TICK = 0xf5  # the guest says so about once a second

def assemble():
    """
    A boot sector that says HELLO on COM1, then each byte that it reads with all bits inverted, and
    ticks. (There is no assembler where the tests run; jumps are worked out here.)
    """
    code, labels, jumps = bytearray(), {}, []

    def emit(text):
        code.extend(bytes.fromhex(text))

    def jump(opcode, to, size=1):
        emit(opcode)
        jumps.append((len(code), to, size))
        code.extend(bytes(size))

    def label(name):
        labels[name] = len(code)

    emit("fa 31c0 8ed8 8ed0 bc007c fb fc")  # cli; ds = ss = 0; sp = 7c00; sti; cld
    emit("bafa03 b0c7 ee")                  # out 3fa, c7: FIFOs on
    jump("e8", "start", 2)                  # call: the stack has HELLO's address
    code.extend(HELLO + b"\0")
    label("start")
    emit("5e")                              # pop si
    label("next")
    emit("ac 84c0")                         # lodsb; test al, al
    jump("74", "idle")                      # jz
    jump("e8", "put", 2)                    # call
    jump("eb", "next")                      # jmp
    label("idle")
    emit("a16c04 c1e804 39d8")              # ax = [46c] >> 4, BIOS' clock; cmp ax, bx
    jump("74", "look")                      # je
    emit(f"89c3 b0{TICK:02x}")              # bx = ax; al = TICK
    jump("e8", "put", 2)
    label("look")
    emit("bafd03 ec a801")                  # in al, 3fd; test al, 1: is there a byte?
    jump("74", "idle")                      # jz
    emit("b2f8 ec f6d0")                    # in al, 3f8; not al
    jump("e8", "put", 2)
    jump("eb", "idle")
    label("put")
    emit("50 bafd03")                       # push ax; dx = 3fd
    label("full")
    emit("ec a820")                         # in al, dx; test al, 20: is there room?
    jump("74", "full")                      # jz
    emit("58 b2f8 ee c3")                   # pop ax; out 3f8, al; ret
    for at, to, size in jumps:
        code[at:at + size] = (labels[to] - at - size).to_bytes(size, "little", signed=True)
    assert len(code) <= 510
    return bytes(code).ljust(510, b"\0") + b"\x55\xaa"


def reconnect():
    """The chardev's option for it: seconds till QEMU 9.2, milliseconds since."""
    told = subprocess.run([QEMU, "--version"], capture_output=True, text=True).stdout
    version = tuple(int(x) for x in re.search(r"version (\d+)\.(\d+)", told).groups())
    return "reconnect-ms=200" if version >= (9, 2) else "reconnect=1"


def boot(world, chardev, name="qemu"):
    """Boots the guest, whose COM1 is this chardev c0."""
    image = world.path("guest.img")
    with open(image, "wb") as f:
        f.write(assemble())
    return Program(world, name, [
        QEMU, "-accel", "tcg", "-M", "pc", "-cpu", "qemu64", "-m", "8", "-nodefaults",
        "-no-user-config", "-display", "none", "-drive", f"file={image},format=raw,if=ide",
        "-chardev", chardev, "-serial", "chardev:c0"])


def read(service, n, rest=b""):
    """n bytes of the guest's but its ticks."""
    got = rest
    while len(got) < n:
        more = service.recv()
        assert more, got
        got += bytes(b for b in more if b != TICK)
    assert len(got) == n, got
    return got


def converse(service, size, seed):
    """So many bytes there and, inverted by the guest, back."""
    # inverted they are no ticks
    sent = bytes(random.Random(seed).choices(range(0x80, 0x100), k=size))
    service.send(sent)
    assert read(service, size) == bytes(b ^ 0xff for b in sent)


def accept(node):
    """The guest's stream, with something that it has said."""
    service = node.kbs.accept()
    first = service.recv()
    assert first
    return service, bytes(b for b in first if b != TICK)


def has_ended(service):
    """Reads ticks until the end."""
    try:
        while service.recv():
            pass
    except Aborted:
        pass
    return True


@pytest.fixture(autouse=True)
def qemu_is_there():
    if not shutil.which(QEMU):
        missing(f"{QEMU} is not installed")


def test_qemu_connects(world):
    """-chardev socket as a client: to a listener, again and again."""
    node = Node(world, [{"name": "serial", "address": f"unix:{world.path('com1')}",
                         "forward": "service:kbs.acme"}])
    qemu = boot(world, f"socket,id=c0,path={world.path('com1')},{reconnect()}")
    service, first = accept(node)
    assert read(service, len(HELLO), first) == HELLO
    converse(service, 3000, 1)
    # a serial line has no end, but its connection has: the service's is passed on
    service.close()
    service, first = accept(node)  # QEMU is back, and the guest talks on
    assert first == b""
    converse(service, 3000, 2)
    # the bridge itself goes, and another comes
    node.bridge.kill()
    assert has_ended(service)
    service.close()
    node.start_bridge()
    service, first = accept(node)
    converse(service, 1000, 3)
    qemu.stop()
    assert has_ended(service)
    service.close()
    e = node.bridge.wait_end(listener="serial")
    assert e["vm"] == f"pid:{qemu.pid}" and e["to"] == "kbs.acme", e
    assert e["reason"] in ("eof", "closed-early"), e


def test_qemu_listens(world):
    """server=on,wait=off: the bridge holds a connection, a stream is made when the guest speaks."""
    os.makedirs(world.path("vms/vm-1"))
    path = world.path("vms/vm-1/com1")
    node = Node(world, [{"name": "serial", "address": f"unix:{world.path('vms')}/*/com1",
                         "socket": "connect", "forward": "by-vm"}],
                vms=[{"vm": "name:vm-1", "service": "kbs.acme"}])
    assert node.nodes_connected() == 0
    qemu = boot(world, f"socket,id=c0,path={path},server=on,wait=off")
    service, first = accept(node)  # what was said before there was a connection is lost
    while not HELLO.endswith(first):
        first += bytes(b for b in service.recv() if b != TICK)
    converse(service, 3000, 1)
    service.close()
    service, first = accept(node)
    assert first == b""
    converse(service, 3000, 2)
    # the node's way out goes: the guest's line is let go, and taken up again when it is back
    node.relay.kill()
    assert has_ended(service)
    service.close()
    world.restart(node.relay).wait_tunnels(1)
    service, first = accept(node)
    converse(service, 1000, 3)
    qemu.stop()
    assert has_ended(service)
    service.close()
    wait_for(lambda: len(node.bridge.ends(vm="name:vm-1", to="kbs.acme")) >= 3, "their lines")
    assert not os.path.exists(path)
