# The proxy that spoils paths, between programs on vsock. Sourced after lib.sh, relay.sh and qgs.sh.
# shellcheck shell=sh disable=SC2154,SC2317

# Schedules and streams follow from it.
seed=$(cat /etc/seed)
mkfifo /run/faults.in
exec 4<>/run/faults.in

# put_away NAME: what a check that failed has left
put_away() { [ ! -e "$pids/$1" ] || gone "$1" || kill -KILL "$(pid_of "$1")"; }

# start_faults PORT ADDRESS [PORT ADDRESS]: any CID's port, and what is behind it
start_faults() {
    echo "ATTEST_SEED=$seed"
    put_away faults
    : >"$logs/faults"
    first=$1
    faults_options=''
    while [ $# -gt 0 ]; do
        faults_options="$faults_options --listen vsock:any:$1 --to $2"
        shift 2
    done
    # the shell gives /dev/null to what it puts in the background
    start faults sh -c "exec fault-proxy $faults_options </run/faults.in"
    until_true "the proxy listens" logged faults "listening vsock:any:$first"
}

# tell_faults COMMAND: and it has taken effect
tell_faults() {
    told=$(grep -c '"done"' "$logs/faults" || true)
    echo "$1" >&4
    until_true "the proxy answers: $1" logged faults '"done": true' $((told + 1))
}

# faults_count KEY: of what it has done so far
faults_count() {
    told=$(grep -c '"accepted"' "$logs/faults" || true)
    echo stats >&4
    until_true "the proxy says its counts" logged faults '"accepted"' $((told + 1))
    grep '"accepted"' "$logs/faults" | tail -n 1 | json "$1"
}

# Not only the schedule does, which may have nothing of the kind for as long as the load takes.
break_flows() (
    tell_faults reset
    [ "$(faults_count injected)" -gt "$standing" ]
)

only_standing() { [ "$(faults_count live)" -le "$standing" ]; }

# under_faults KIND N LOAD...: runs it on paths of this kind, and mends them; its output is in
# /run/load. No flow is left but N that stand open.
under_faults() {
    kind=$1
    standing=$2
    shift 2
    tell_faults "schedule $seed $kind"
    "$@" >/run/load &
    load=$!
    [ "$kind" = gentle ] || until_true "flows are broken" break_flows
    wait $load || true
    tell_faults "schedule off"
    tell_faults clear
    until_true "all flows have ended" only_standing
    echo "faults: $(grep -c '^+' "$logs/faults") steps, $(faults_count accepted) flows," \
        "$(faults_count injected) broken"
}

end_faults() {
    echo quit >&4
    until_true "the proxy has ended" gone faults
}

# ---- what programs hold ----

# descriptors NAME: without pipes, of which a relay keeps some for the next splice
descriptors() {
    held_now=0
    for fd in "/proc/$(pid_of "$1")/fd"/*; do
        case $(readlink "$fd") in
        '' | pipe:*) ;; # closed meanwhile
        *) held_now=$((held_now + 1)) ;;
        esac
    done
    echo $held_now
}
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$(pid_of "$1")/status"; }

# remember NAME...: what these hold now
remember() {
    for held in "$@"; do
        descriptors "$held" >"/run/descriptors.$held"
        [ "$(cat "/run/descriptors.$held")" -gt 2 ] || fail "the descriptors of $held are not seen"
        rss "$held" >"/run/rss.$held"
    done
}

no_more_descriptors() { [ "$(descriptors "$1")" -le "$(cat "/run/descriptors.$1")" ]; }

# back NAME...: they hold no more than was remembered; of memory, the allocator keeps some
back() {
    for held in "$@"; do
        until_true "$held has as few descriptors as before" no_more_descriptors "$held"
        grown=$(($(rss "$held") - $(cat "/run/rss.$held")))
        echo "$held: $(descriptors "$held") descriptors, memory grew by $grown KiB"
        [ $grown -lt 2048 ] || fail "memory of $held grew by $grown KiB"
    done
}

# metric PORT NAME: the sum over its labels
metric() {
    wget -q -O - "http://127.0.0.1:$1/metrics" |
        awk -v name="$2" '$1 == name || index($1, name "{") == 1 { n += $NF } END { print n + 0 }'
}

# ---- attest-relay and attest-tunnel ----

# The relay with metrics, from here on. Before, one is started while another drains, which keeps its
# metrics to its end.
count_relay() {
    [ ! -e /run/counted.yaml ] || return 0
    kill -TERM "$(pid_of relay)"
    until_true "the relay has ended" gone relay
    { cat /etc/relay.yaml && echo 'metrics: tcp:127.0.0.1:9101'; } >/run/counted.yaml
    start relay attest-relay --config /run/counted.yaml
    until_true "the agent is back" vm-peer call vsock:1:5001 late 1 1
}

relay_quiet() {
    for gauge in intakes openings parked splices; do
        [ "$(metric 9101 attest_relay_live_$gauge)" = 0 ] || return 1
    done
    [ "$(metric 9101 attest_relay_streams_total)" = "$(metric 9101 attest_relay_stream_ended_total)" ]
}

# mixed FILE KIND: how streams ended on a path of this kind
mixed() {
    cat "$1"
    expect "wrong $(number wrong <"$1")" "wrong 0"
    expect "timeout $(number timeout <"$1")" "timeout 0"
    [ "$(number ok <"$1")" -gt 0 ] || fail "no stream was whole"
    [ "$2" = harsh ] || expect "$(number ok <"$1")" "$(number calls <"$1")"
}

# relay_under_faults KIND: 400 streams, half of them through the tunnel
relay_under_faults() {
    count_relay
    start_faults 7000 vsock:1:5000 7001 vsock:1:5001
    vm-peer mix "$seed" 60 30 vsock:1:7000 vsock:1:7001 # what caches fill with
    until_true "the relay is quiet" relay_quiet
    remember relay agent
    early=$(grep -c 'up=ok down=ok' "$logs/server" || true)
    under_faults "$1" 0 vm-peer mix "$seed" 400 30 vsock:1:7000 vsock:1:7001
    mixed /run/load "$1"
    until_true "the relay is quiet" relay_quiet
    ! logged server "=wrong" || fail "the server got wrong bytes"
    # of these the caller's last bytes are known to have arrived only from the server
    [ "$1" = harsh ] || until_true "the server got all bytes" logged server 'up=ok down=ok' \
        $((early + $(number early </run/load)))
    back relay agent
    vm-peer call vsock:1:7000 late 1052 5000 20
    vm-peer call vsock:1:7001 late 1052 5000 20
    end_faults
}

check_relay_gentle_faults() { relay_under_faults gentle; }
check_relay_harsh_faults() { relay_under_faults harsh; }

# What a reset is on vsock: an end of both directions, and no error where one reads.
check_relay_reset_by_the_path() {
    count_relay
    start_faults 7000 vsock:1:5000
    vm-peer errno vsock:1:7000 >/run/errno &
    reader=$!
    one_flow() { [ "$(faults_count live)" = 1 ]; }
    until_true "it is connected" one_flow
    tell_faults reset
    wait $reader
    expect "$(cat /run/errno)" "read EOF"
    end_faults
    until_true "the relay is quiet" relay_quiet
}

# ---- qgs-bridge ----

# start_faulty_bridge QGS: its time-outs are longer than what gentle paths take
start_faulty_bridge() {
    cat >/run/faulty.yaml <<END
metrics: tcp:127.0.0.1:9102
listeners: [{ name: vsock, address: "vsock:any:4080" }]
qgs: { address: "$1" }
timeouts: { request: 30s, reply: 30s }
limits: { connections_per_vm: 512, queue_per_vm: 512, rate_per_vm: 10000, burst_per_vm: 10000 }
END
    put_away faulty
    start faulty qgs-bridge --config /run/faulty.yaml
    until_true "a request is answered" quote 4080
}

# No request is left, and each connection has been counted once.
bridge_quiet() {
    for gauge in connections qgs_in_flight qgs_waiting; do
        [ "$(metric 9102 qgs_bridge_$gauge)" = 0 ] || return 1
    done
    counted=$(($(metric 9102 qgs_bridge_requests_total) + $(metric 9102 qgs_bridge_refused_total)))
    [ "$(metric 9102 qgs_bridge_accepted_total)" = $counted ]
}

# quotes KIND N VM...: 300 requests on paths of this kind; of flows, N stand open
quotes() {
    kind=$1
    n_open=$2
    shift 2
    quote-load run "$@" --requests 60 --concurrency-per-vm 10 --odd "$seed" >/run/load ||
        fail "$(cut -d'{' -f1-4 /run/load)"
    until_true "the bridge is quiet" bridge_quiet
    remember faulty
    under_faults "$kind" "$n_open" quote-load run "$@" --requests 300 --concurrency-per-vm 10 \
        --think-ms 100 --odd "$seed"
    unspoiled /run/load
    [ "$kind" = harsh ] || expect "$(json ok </run/load)" 300
    until_true "the bridge is quiet" bridge_quiet
    back faulty
    quote 4080
    end_faults
    kill -TERM "$(pid_of faulty)"
    until_true "the bridge has ended" gone faulty
}

# Clients' paths are spoilt. libtdx_attest reads four bytes at once, and only whoever sends a reply in
# one piece can see to that.
bridge_under_clients_faults() {
    start_faults 7080 vsock:1:4080
    start_faulty_bridge unix:/run/qgs.sock
    quotes "$1" 0 --client qemu --vm one=vsock:1:7080 --vm two=vsock:1:7080
}

check_bridge_gentle_faults_at_clients() { bridge_under_clients_faults gentle; }
check_bridge_harsh_faults_at_clients() { bridge_under_clients_faults harsh; }

# The path to QGS is spoilt, and QGS is one that bears pieces. What is promised to clients holds:
# their reply comes whole or not at all.
bridge_under_qgs_faults() {
    tell_qgs "behave 1.26"
    tell_qgs "quote-bytes 14000"
    start_faults 4081 vsock:1:4051
    start_faulty_bridge vsock:local:4081
    # the bridge watches QGS's end by a connection that it keeps
    quotes "$1" 1 --client mix --vm one=vsock:1:4080 --vm two=vsock:1:4080 --vm three=vsock:1:4080
    tell_qgs "behave legacy"
    tell_qgs "quote-bytes 5000"
}

check_bridge_gentle_faults_at_qgs() { bridge_under_qgs_faults gentle; }
check_bridge_harsh_faults_at_qgs() { bridge_under_qgs_faults harsh; }
