#!/bin/sh
# What a guest says on virtio-serial ports is said back by a service far behind them.
# shellcheck disable=SC2317 # called by name
# shellcheck source=tests/vm/guest/lib.sh
. /lib.sh

# port NAME: its device; udev would have made a link of this name
port() {
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name")" != "$1" ] || basename "$(dirname "$name")"
    done
}

ended() { ! kill -0 "$1"; }

# echoes NAME SIZE: so many bytes go through the port and come back
echoes() {
    device=/dev/$(port "$1")
    [ -c "$device" ] || fail "there is no port $1"
    head -c "$2" /dev/urandom >/run/sent
    exec 5<>"$device"
    cat /run/sent >&5 &
    # not with timeout(1), which would leave a process that has the port open
    head -c "$2" <&5 >/run/got &
    reader=$!
    until_true "all bytes come back" ended $reader
    exec 5>&-
    cmp /run/sent /run/got || fail "other bytes came back"
}

check_qemu_connects() { echoes attest.0 200000; }
check_qemu_listens() { echoes attest.1 200000; }
# The guest closes its port and opens it again: the same line, to whoever is there.
check_port_opened_again() {
    echoes attest.0 1000
    echoes attest.1 1000
}

for name in qemu-connects qemu-listens port-opened-again; do
    check $name
done
end
