# attest-relay and attest-tunnel over vsock's loopback, with vsock at both ends. Sourced after lib.sh.
# shellcheck shell=sh disable=SC2154,SC2317

mib=1048576

# vsock:any:5000 -> vsock:local:6000; 5001 -> the same by a tunnel; 5002 -> nobody

start_relay() { start relay attest-relay --config /etc/relay.yaml; }

check_relay_listens_at_any_cid() {
    start server vm-peer serve vsock:any:6000
    start_relay
    start agent attest-tunnel --relay tcp:127.0.0.1:443 --server-name relay.test --ca-file /etc/relay.pem \
        --token-file /etc/token --service far=vsock:local:6000
    until_true "a call is answered" vm-peer call vsock:1:5000 late 1 1
    until_true "a call through the tunnel is answered" vm-peer call vsock:1:5001 late 1 1
}

# The late answer has to come after the caller's end-of-file has gone all the way.
check_relay_late_answer() { vm-peer call vsock:1:5000 late $((2 * mib)) $((3 * mib)); }
check_tunnel_late_answer() { vm-peer call vsock:1:5001 late $((2 * mib)) $((3 * mib)); }

# early PORT: the server ends first; then all of the caller's bytes have to arrive nevertheless
early() {
    before=$(grep -c 'up=ok down=ok' "$logs/server" || true)
    vm-peer call "vsock:1:$1" early $((2 * mib)) $((3 * mib))
    until_true "the server got all bytes" logged server 'up=ok down=ok' $((before + 1))
}

check_relay_early_end() { early 5000; }
check_tunnel_early_end() { early 5001; }

check_nobody_listens() { expect "$(vm-peer errno vsock:1:5999)" "connect ECONNRESET"; }

# The relay accepts, and cannot connect. vsock has no abort once connected: the client sees an end.
check_relay_target_refuses() {
    told=$(vm-peer errno vsock:1:5002)
    echo "$told"
    case $told in
    "read EOF" | "read ECONNRESET") ;;
    *) fail "the client of a dead target sees $told" ;;
    esac
    until_true "the relay's log says dial-refused" logged relay dial-refused
}

check_relay_names_the_caller() {
    until_true "the log has the client's address" logged relay 'vsock:1:[0-9]'
    grep -e 'vsock:1:[0-9]' "$logs/relay" | head -n 1
}

check_relay_200_at_once() { vm-peer call vsock:1:5000 late 1052 5000 200; }
check_tunnel_200_at_once() { vm-peer call vsock:1:5001 late 1052 5000 200; }

# storm PORT RESTART: under callers that never rest, a restart cuts nothing short and spoils nothing
storm() {
    vm-peer storm "vsock:1:$1" 8 20 >/run/storm 2>&1 &
    storm=$!
    sleep 2
    "$2"
    wait $storm || true
    cat /run/storm
    [ "$(number ok </run/storm)" -gt 0 ] || fail "no call was answered"
    expect "wrong $(number wrong </run/storm)" "wrong 0"
    expect "timeout $(number timeout </run/storm)" "timeout 0"
}

restart_relay_in_order() {
    kill -TERM "$(pid_of relay)"
    until_true "the relay has ended" gone relay
    start_relay
    sleep 0.5
    ! gone relay || fail "it could not be started again: $(tail -n 1 "$logs/relay")"
}

restart_relay_killed() {
    kill -KILL "$(pid_of relay)"
    start_relay
    sleep 0.5
    ! gone relay || fail "it could not be started again: $(tail -n 1 "$logs/relay")"
}

check_relay_restart_in_order() {
    storm 5000 restart_relay_in_order
    expect "cut $(number cut </run/storm)" "cut 0"
    vm-peer call vsock:1:5000 late 1 1
}

check_relay_restart_killed() {
    storm 5000 restart_relay_killed
    vm-peer call vsock:1:5000 late 1 1
}

# A port of vsock is free as soon as nobody listens there: the next relay need not wait for the
# streams of the one before.
check_relay_rebinds_while_draining() {
    vm-peer call vsock:1:5000 rest 1052 5000 10 >/run/resting 2>&1 &
    resting=$!
    sleep 1
    old=$(pid_of relay)
    kill -TERM "$old"
    until_true "the relay listens no more" refused vsock:1:5000
    start_relay
    until_true "the next relay answers" vm-peer call vsock:1:5000 late 1 1
    ! gone "$old" || fail "the relay has not drained: it is gone"
    wait $resting || fail "a stream was lost: $(cat /run/resting)"
    cat /run/resting
    until_true "the relay has ended" gone "$old"
}

# A listening socket handed over as systemd does for a socket unit.
check_relay_takes_a_socket_unit() {
    start activated vm-peer activate vsock:any:5003 unit attest-relay --config /etc/activated.yaml
    until_true "a call is answered" vm-peer call vsock:1:5003 late 1 1
    vm-peer call vsock:1:5003 late $((2 * mib)) $((3 * mib))
    until_true "the log says where it listens" logged activated 'listener handed at fd:unit'
    kill -TERM "$(pid_of activated)"
    until_true "it has ended" gone activated
}

check_relay_ends_in_order() {
    until_true "the agent is back" vm-peer call vsock:1:5001 late 1 1
    kill -TERM "$(pid_of agent)" "$(pid_of relay)"
    until_true "the agent has ended" gone agent
    until_true "the relay has ended" gone relay
    expect "$(vm-peer errno vsock:1:5000)" "connect ECONNRESET"
}
