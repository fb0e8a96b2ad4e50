# Guests inside the VM, with CIDs of their own, and orders to them. Sourced after lib.sh.
# shellcheck shell=sh disable=SC2154

# guest_start CID
guest_start() {
    mkfifo "/run/guest$1.in" "/run/guest$1.out"
    echo 0 >"/run/guest$1.n"
    # microvm and -cpu max hang in an emulator in an emulator
    start "qemu$1" /qemu/bin/qemu-system-x86_64 -accel tcg -M pc -cpu qemu64 -m 128 -nodefaults \
        -no-user-config -display none -no-reboot -L /qemu/share -device "vhost-vsock-pci,guest-cid=$1" \
        -serial "file:$logs/console$1" -chardev "pipe,id=orders,path=/run/guest$1" -serial chardev:orders \
        -kernel /guest/kernel -initrd /guest/initrd \
        -append "console=ttyS0 quiet panic=-1 nokaslr lpj=1000000"
    cat "/run/guest$1.out" >>"$logs/guest$1" &
}

# guest_wait CID N SECONDS: for the end of its order number N
guest_wait() {
    last=$(($(uptime_seconds) + $3))
    until grep -q "^done $2 " "$logs/guest$1"; do
        [ "$(uptime_seconds)" -lt $last ] || fail "guest $1 has not done order $2 within $3 s"
        ! gone "qemu$1" || fail "the guest $1 is gone: $(tail -n 1 "$logs/qemu$1")"
        sleep 0.2
    done
}

# in_guest CID COMMAND...: its output, and its exit code
in_guest() {
    cid=$1
    shift
    n=$(($(cat "/run/guest$cid.n") + 1))
    echo $n >"/run/guest$cid.n"
    echo "$n $*" >"/run/guest$cid.in"
    guest_wait "$cid" $n 120
    sed -n "/^begin $n\$/,/^done $n /p" "$logs/guest$cid" | sed '1d;$d'
    return "$(sed -n "s/^done $n //p" "$logs/guest$cid")"
}

# both COMMAND...: in both guests at the same time; what each said, and 0 if both did
both() {
    in_guest 42 "$@" >/run/both42 &
    one=$!
    in_guest 43 "$@" >/run/both43 &
    other=$!
    codes=''
    wait $one || codes="42"
    wait $other || codes="$codes 43"
    sed 's/^/42: /' /run/both42
    sed 's/^/43: /' /run/both43
    [ -z "$codes" ] || fail "not well in $codes: $(tail -qn 1 /run/both42 /run/both43)"
}
