# SVSM's attestation: vsock port 1995 -> qgs-bridge -> relay -> tunnel -> aproxy. Sourced after lib.sh.
# shellcheck shell=sh disable=SC2154,SC2317

start_svsm_agent() {
    start svsm-agent attest-tunnel --relay tcp:127.0.0.1:443 --server-name relay.test \
        --ca-file /etc/relay.pem --token-file /etc/token --service svsm=vsock:local:1996
}

# The VM boots before its owner comes: it is kept, and served when the tunnel is there.
check_svsm_before_its_owner() {
    start svsm-relay attest-relay --config /etc/relay.yaml
    start svsm-bridge qgs-bridge --config /etc/svsm.yaml
    start aproxy vm-svsm aproxy 1996
    # not by connecting: that would be an SVSM, which aproxy does not survive if it says nothing
    until_true "the bridge listens" logged svsm-bridge 'listens at vsock:any:1995'
    until_true "aproxy listens" logged aproxy listening
    vm-svsm attest 1 1995 3 >/run/svsm 2>&1 &
    svsm=$!
    sleep 2
    ! gone $svsm || fail "they were not kept: $(cat /run/svsm)"
    ! logged aproxy served || fail "aproxy was found without a tunnel"
    start_svsm_agent
    wait $svsm || fail "$(cat /run/svsm)"
    cat /run/svsm
}

# Each one's end lets the next one in.
check_svsm_in_turn() {
    before=$(grep -c served "$logs/aproxy")
    vm-svsm attest 1 1995 20
    until_true "aproxy has seen all their ends" logged aproxy served $((before + 20))
    ! gone aproxy || fail "aproxy has ended: $(tail -n 1 "$logs/aproxy")"
}

check_svsm_ends_in_order() {
    kill -TERM "$(pid_of svsm-bridge)" "$(pid_of svsm-agent)" "$(pid_of svsm-relay)"
    for program in svsm-bridge svsm-agent svsm-relay; do
        until_true "$program has ended" gone $program
    done
    kill -TERM "$(pid_of aproxy)"
    expect "$(vm-peer errno vsock:1:1995)" "connect ECONNRESET"
}
