#!/bin/sh
# Two guests with CIDs 42 and 43, at the same time, and the programs on the host that they see as CID 2.
# shellcheck disable=SC2317 # the functions are called by name
# shellcheck source=tests/vm/guest/lib.sh
. /lib.sh
# shellcheck source=tests/vm/guest/guests.sh
. /guests.sh
# shellcheck source=tests/vm/guest/qgs.sh
. /qgs.sh

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

# ---- qgs-bridge: vsock:any:4050 ----

# guests_quote OPTION...: a request of each guest
guests_quote() { both quote-load one --inside-vm --to vsock:2:4050 "$@"; }

check_bridge_answers_guests() {
    start_qgs
    start_bridge
    until_true "the bridge answers" quote 4050
    guests_quote --client qemu
    guests_quote --client tdx
    guests_quote --client raw
}

check_bridge_tells_guests_apart() {
    until_true "guest 42 is in the log" logged bridge 'cid:42 (vsock:42:[0-9]'
    until_true "guest 43 is in the log" logged bridge 'cid:43 (vsock:43:[0-9]'
    grep -e 'cid:4[23]' "$logs/bridge" | tail -n 2
}

# The guest's end-of-file is long there when the reply comes; a raw one ends with QGS's.
check_bridge_late_reply() {
    tell_qgs "work-ms 2000"
    guests_quote --shut-wr
    guests_quote --shut-wr --client raw
    tell_qgs "work-ms 0"
}

# QGS works on four at a time, half a second each. With 16 of one guest always there, one queue for all
# would answer the other after 2 s and more; in turn it has the next place, within half a second, and
# its own half.
check_bridge_flood_starves_nobody() {
    tell_qgs "work-ms 500"
    in_guest 42 quote-load run --inside-vm --vm flood=vsock:2:4050 --requests 160 \
        --concurrency-per-vm 16 >/run/flood &
    flood=$!
    sleep 3
    in_guest 43 quote-load run --inside-vm --vm single=vsock:2:4050 --requests 8 >/run/single ||
        fail "a request failed: $(cat /run/single)"
    ! gone $flood || fail "the flood was over too early"
    wait $flood || fail "a request of the flood failed: $(cat /run/flood)"
    tell_qgs "work-ms 0"
    echo "alone, ms: p50 $(json p50_ms </run/single), max $(json max_ms </run/single)"
    echo "flood, ms: p50 $(json p50_ms </run/flood), max $(json max_ms </run/flood)"
    awk "BEGIN { exit !($(json p50_ms </run/single) < 1500) }" || fail "the other guest was starved"
}

check_bridge_denies_after_reload() {
    reload 'rules: [{action: deny, vm: "cid:43"}, {action: allow}]'
    given=$(qgs_requests)
    ! in_guest 43 quote-load one --inside-vm --to vsock:2:4050 || fail "who is denied has a quote"
    in_guest 42 quote-load one --inside-vm --to vsock:2:4050
    expect "$(qgs_requests)" $((given + 1))
    until_true "the log says forbidden" logged bridge 'cid:43 .*forbidden'
    reload ''
    guests_quote
}

check_bridge_withdraws() {
    kill -KILL "$(pid_of qgs)"
    until_true "the bridge listens no more" refused vsock:1:4050
    expect "$(in_guest 43 vm-peer errno vsock:2:4050)" "connect ECONNRESET"
    start_qgs
    until_true "the bridge answers" quote 4050
    guests_quote
}

# ---- the end of a guest ----

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
    relay-early-end relay-100-at-once nobody-listens bridge-answers-guests bridge-tells-guests-apart \
    bridge-late-reply bridge-flood-starves-nobody bridge-denies-after-reload bridge-withdraws \
    relay-notices-a-dead-guest; do
    check $name
done
end
