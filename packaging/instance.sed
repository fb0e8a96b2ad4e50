# From attest-tunnel.service to attest-tunnel@.service: what is one agent's own is its instance's.
s,/attest-tunnel/tunnel\.yaml,/attest-tunnel/%i.yaml,
s,/attest-tunnel/(token|key\.pem)$,/attest-tunnel/%i.\1,
s,^RuntimeDirectory=.*,&-%i,
s,^Description=.*,& (%i),
