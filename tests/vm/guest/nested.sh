#!/bin/sh
# Two guests with CIDs 42 and 43, at the same time, and the programs on the host that they see as CID 2.
# shellcheck disable=SC2317 # the functions are called by name
# shellcheck source=tests/vm/guest/lib.sh
. /lib.sh
# shellcheck source=tests/vm/guest/guests.sh
. /guests.sh

mib=1048576

check_guests_boot() {
    guest_start 42
    guest_start 43
    guest_wait 42 0 300
    guest_wait 43 0 300
}

# ---- attest-relay: vsock:any:5000 -> vsock:local:6000 ----

check_relay_answers_guests() {
    start server vm-peer serve vsock:any:6000
    start relay attest-relay --config /etc/relay.yaml
    until_true "the relay answers" vm-peer call vsock:1:5000 late 1 1
    both vm-peer call vsock:2:5000 late 1 1
}

check_relay_tells_guests_apart() {
    until_true "guest 42 is in the log" logged relay 'vsock:42:[0-9]'
    until_true "guest 43 is in the log" logged relay 'vsock:43:[0-9]'
    grep -e 'vsock:4[23]:' "$logs/relay"
}

check_relay_late_answer() { both vm-peer call vsock:2:5000 late $mib $mib; }

check_relay_early_end() {
    before=$(grep -c 'up=ok down=ok' "$logs/server" || true)
    both vm-peer call vsock:2:5000 early $mib $mib
    until_true "the server got all bytes" logged server 'up=ok down=ok' $((before + 2))
}

check_relay_100_at_once() { both vm-peer call vsock:2:5000 late 1052 5000 50; }

check_nobody_listens() { expect "$(in_guest 42 vm-peer errno vsock:2:5999)" "connect ECONNRESET"; }

one_stream() { wget -qO- http://127.0.0.1:9464/metrics | grep -q '^attest_relay_live_splices 1$'; }

# A guest that is gone takes its streams with it.
check_relay_notices_a_dead_guest() {
    echo "1000 vm-peer call vsock:2:5000 rest 1 1" >/run/guest43.in
    until_true "its stream has come" one_stream
    kill -KILL "$(pid_of qemu43)"
    until_true "the relay's log says how it ended" logged relay 'vsock:43:.*\(reset\|closed-early\)'
    grep -e 'vsock:43:' "$logs/relay" | tail -n 1
    in_guest 42 vm-peer call vsock:2:5000 late 1 1
}

for name in guests-boot relay-answers-guests relay-tells-guests-apart relay-late-answer \
    relay-early-end relay-100-at-once nobody-listens relay-notices-a-dead-guest; do
    check $name
done
end
