# qgs-bridge, the stand-in for QGS, and clients that want quotes of it. Sourced after lib.sh.
# shellcheck shell=sh disable=SC2154,SC2317
mkfifo /run/qgs.in
exec 3<>/run/qgs.in

# As in the field up to 1.25: it hangs on a request that comes in pieces.
start_qgs() {
    # the shell gives /dev/null to what it puts in the background
    start qgs sh -c 'exec qgs-stand-in --listen unix:/run/qgs.sock --listen vsock:any:4051 \
        --behave legacy </run/qgs.in'
    until_true "QGS listens" vm-peer connects vsock:1:4051
}

# tell_qgs COMMAND: and it has done it
tell_qgs() {
    before=$(grep -c '"done": true' "$logs/qgs" || true)
    echo "$1" >&3
    until_true "QGS has done: $1" logged qgs '"done": true' $((before + 1))
}

# qgs_requests: how many it was given in its life
qgs_requests() {
    before=$(grep -c '"connections"' "$logs/qgs" || true)
    echo stats >&3
    until_true "QGS says its counts" logged qgs '"connections"' $((before + 1))
    grep '"connections"' "$logs/qgs" | tail -n 1 | json requests
}

start_bridge() { start bridge qgs-bridge --config /etc/bridge.yaml; }

# reload RULES: the config with these
reload() {
    cp /etc/bridge.yaml /run/bridge.before
    printf '%s\n' "$1" >>/etc/bridge.yaml
    reloads=$(grep -c 'config was read again' "$logs/bridge" || true)
    kill -HUP "$(pid_of bridge)"
    until_true "the config was read again" logged bridge 'config was read again' $((reloads + 1))
    cp /run/bridge.before /etc/bridge.yaml
}

# quote PORT [OPTION...]: one request over the loopback
quote() {
    port=$1
    shift
    quote-load one --to "vsock:1:$port" "$@"
}

# json KEY: its first number in what quote-load and the stand-in say
json() { grep -o "\"$1\": [0-9.]*" | head -n 1 | cut -d' ' -f2; }

# unspoiled FILE: every request of quote-load's run was answered right, or had no byte of an answer
unspoiled() {
    cut -d'{' -f1-3 "$1"
    [ "$(json ok <"$1")" -gt 0 ] || fail "no request was answered"
    for outcome in error bad-reply would-spin timeout; do
        expect "$outcome $(json "$outcome" <"$1")" "$outcome 0"
    done
}
