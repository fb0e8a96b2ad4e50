# qgs-bridge over vsock's loopback. Sourced after lib.sh and qgs.sh.
# shellcheck shell=sh disable=SC2154,SC2317

check_bridge_listens_at_any_cid() {
    start_qgs
    start_bridge
    until_true "a request is answered" quote 4050
}

check_bridge_serves_qemu() { quote 4050 --client qemu; }
check_bridge_serves_libtdx() { quote 4050 --client tdx; }
check_bridge_serves_raw() { quote 4050 --client raw; }

# The client's end-of-file is long there when the reply comes.
check_bridge_late_reply() {
    tell_qgs "work-ms 1000"
    quote 4050 --shut-wr
    quote 4050 --shut-wr --client raw
    tell_qgs "work-ms 0"
}

check_bridge_mends_split_requests() { quote 4050 --split 20+500; }

check_bridge_names_the_caller() {
    until_true "the log has the client's CID" logged bridge 'cid:1 (vsock:1:[0-9]'
    grep 'cid:1 ' "$logs/bridge" | tail -n 1
}

check_bridge_200_at_once() {
    quote-load run --vm one=vsock:1:4050 --client mix --requests 200 --concurrency-per-vm 200
}

# 50 VMs, over all kinds of listeners at once; each reply carries its request's mark.
check_bridge_10000_by_all_kinds() {
    cat >/run/all.yaml <<END
listeners:
  - { name: vsock, address: "vsock:any:4070" }
  - { name: unix, address: "unix:/run/all.sock" }
  - { name: hybrid, address: "hybrid:/run/all.vsock:4070" }
  - { name: tcp, address: "tcp:127.0.0.1:4070" }
qgs: { address: "unix:/run/qgs.sock" }
limits: { rate_per_vm: 100000, burst_per_vm: 100000 }
END
    start all qgs-bridge --config /run/all.yaml
    until_true "a request is answered" quote 4070
    rss() { awk '/^VmRSS/ { print $2 }' "/proc/$(pid_of all)/status"; }
    set --
    i=0
    while [ $i -lt 50 ]; do
        case $((i % 4)) in
        0) at=vsock:1:4070 ;;
        1) at=unix:/run/all.sock ;;
        2) at=unix:/run/all.vsock_4070 ;;
        3) at=tcp:127.0.0.1:4070 ;;
        esac
        set -- "$@" --vm "vm$i=$at"
        i=$((i + 1))
    done
    quote-load run "$@" --client mix --requests 1000 --concurrency-per-vm 2 >/dev/null
    warm=$(rss)
    quote-load run "$@" --client mix --requests 10000 --concurrency-per-vm 2 >/run/all.out ||
        fail "$(head -c 600 /run/all.out)"
    cut -d '{' -f 1-3 /run/all.out | sed 's/, "vms.*//; s/"errors.*"seconds/"seconds/'
    grew=$(($(rss) - warm))
    echo "memory grew by $grew KiB"
    [ $grew -lt 2048 ] || fail "memory grew by $grew KiB"
    kill -TERM "$(pid_of all)"
    until_true "the bridge has ended" gone all
}

check_bridge_qgs_on_vsock() {
    start bridge2 qgs-bridge --listen vsock:any:4060 --qgs vsock:local:4051
    until_true "a request is answered" quote 4060
    quote 4060 --client tdx
    quote 4060 --client raw --shut-wr
}

# withdraws PORT SECONDS: clients are refused as if the bridge were not there, for as long as QGS is
# not. Its end is noticed in so much time.
withdraws() {
    quote "$1"
    kill -KILL "$(pid_of qgs)"
    killed=$(uptime_now)
    until_true "clients are refused" refused "vsock:1:$1"
    spent=$(since "$killed")
    echo "refused $spent s after its end"
    awk "BEGIN { exit !($spent < $2) }" || fail "it took $spent s"
    start_qgs
    started=$(uptime_now)
    until_true "a request is answered again" quote "$1"
    echo "answered $(since "$started") s after it was back"
}

# The process of QGS is watched, and has a second to come back.
check_bridge_withdraws() { withdraws 4050 4; }

# A connection that stands open tells of its end; probes would be 5 s apart, and later after a request.
check_bridge_withdraws_on_vsock() {
    withdraws 4060 4
    kill -TERM "$(pid_of bridge2)"
    until_true "the bridge has ended" gone bridge2
}

check_bridge_denies_after_reload() {
    reload 'rules: [{action: deny, cid: "1"}, {action: allow}]'
    given=$(qgs_requests)
    ! quote 4050 || fail "who is denied has a quote"
    expect "$(qgs_requests)" "$given"
    until_true "the log says forbidden" logged bridge 'cid:1 .*forbidden'
    reload ''
    quote 4050
}

# bridge_storm RESTART: under clients that never rest
bridge_storm() {
    quote-load run --vm one=vsock:1:4050 --client tdx --requests 2000 --concurrency-per-vm 20 \
        --think-ms 50 >/run/storm 2>&1 &
    storm=$!
    sleep 2
    "$1"
    ! gone $storm || fail "the clients were done before the restart"
    wait $storm || true
    unspoiled /run/storm
    quote 4050
}

restart_bridge_in_order() {
    kill -TERM "$(pid_of bridge)"
    until_true "the bridge has ended" gone bridge
    start_bridge
}

restart_bridge_killed() {
    kill -KILL "$(pid_of bridge)"
    start_bridge
}

check_bridge_restart_in_order() { bridge_storm restart_bridge_in_order; }
check_bridge_restart_killed() { bridge_storm restart_bridge_killed; }

check_bridge_rebinds_while_draining() {
    tell_qgs "work-ms 3000"
    quote-load run --vm one=vsock:1:4050 --requests 4 --concurrency-per-vm 4 >/run/resting 2>&1 &
    resting=$!
    sleep 1
    old=$(pid_of bridge)
    kill -TERM "$old"
    until_true "the bridge listens no more" refused vsock:1:4050
    start_bridge
    until_true "the next bridge listens" vm-peer connects vsock:1:4050
    ! gone "$old" || fail "the bridge has not drained: it is gone"
    wait $resting || fail "a request was lost: $(cat /run/resting)"
    until_true "the bridge has ended" gone "$old"
    tell_qgs "work-ms 0"
    quote 4050
}

check_bridge_ends_in_order() {
    kill -TERM "$(pid_of bridge)"
    until_true "the bridge has ended" gone bridge
    expect "$(vm-peer errno vsock:1:4050)" "connect ECONNRESET"
    kill -TERM "$(pid_of qgs)"
}
