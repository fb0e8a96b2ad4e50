#!/bin/sh
# All over vsock's loopback: attest-relay and attest-tunnel, then qgs-bridge, then all three.
# shellcheck source=tests/vm/guest/lib.sh
. /lib.sh
# shellcheck source=tests/vm/guest/relay.sh
. /relay.sh
# shellcheck source=tests/vm/guest/qgs.sh
. /qgs.sh
# shellcheck source=tests/vm/guest/bridge.sh
. /bridge.sh
# shellcheck source=tests/vm/guest/svsm.sh
. /svsm.sh
# shellcheck source=tests/vm/guest/faults.sh
. /faults.sh

for name in relay-listens-at-any-cid relay-late-answer tunnel-late-answer relay-early-end \
    tunnel-early-end nobody-listens relay-target-refuses relay-names-the-caller \
    relay-200-at-once tunnel-200-at-once relay-restart-in-order relay-restart-killed \
    relay-rebinds-while-draining relay-gentle-faults relay-harsh-faults relay-reset-by-the-path \
    relay-takes-a-socket-unit relay-ends-in-order \
    bridge-listens-at-any-cid bridge-serves-qemu bridge-serves-libtdx bridge-serves-raw \
    bridge-late-reply bridge-mends-split-requests bridge-names-the-caller bridge-200-at-once \
    bridge-10000-by-all-kinds bridge-qgs-on-vsock bridge-withdraws bridge-withdraws-on-vsock bridge-denies-after-reload \
    bridge-restart-in-order bridge-restart-killed bridge-rebinds-while-draining \
    bridge-gentle-faults-at-clients bridge-harsh-faults-at-clients bridge-gentle-faults-at-qgs \
    bridge-harsh-faults-at-qgs \
    bridge-ends-in-order \
    svsm-before-its-owner svsm-in-turn svsm-ends-in-order; do
    check $name
done
end
