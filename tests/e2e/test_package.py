# packaging/: Kubernetes' manifests fit together, and fit the programs; the image's recipe; completion.
import glob
import http.client
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

import kustomize
from harness import DEADLINE, ROOT, Program, Relay, binary, free_port, wait_for

KUBERNETES = os.path.join(ROOT, "packaging", "kubernetes")
FOLDERS = ["relay", "overlays/example", "tunnel", "qgs-bridge"]
PROGRAMS = {"attest-relay": "ATTEST_RELAY", "attest-tunnel": "ATTEST_TUNNEL",
            "qgs-bridge": "ATTEST_BRIDGE", "attestctl": "ATTESTCTL"}


@pytest.fixture(scope="module", params=FOLDERS)
def documents(request):
    return kustomize.build(os.path.join(KUBERNETES, request.param))


@pytest.fixture(params=["relay", "overlays/example"])
def relay(request):
    return kustomize.build(os.path.join(KUBERNETES, request.param))


def of(documents, *kinds):
    return [d for d in documents if d["kind"] in kinds]


def name(document):
    return document["metadata"]["name"]


def workloads(documents):
    return of(documents, "StatefulSet", "Deployment", "DaemonSet")


def labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def matches(selector, has):
    return selector and all(has.get(k) == v for k, v in selector.items())


def configs(documents):
    """(program, its config as text, its workload) of each workload's ConfigMap."""
    maps = {name(d): d["data"] for d in of(documents, "ConfigMap")}
    for workload in workloads(documents):
        data = maps[name(workload)]
        at, = data
        yield name(workload), data[at], workload


def program_of(workload):
    pod = kustomize.pod_of(workload)
    container, = [c for c in pod["containers"] if c["name"] == name(workload)]
    return container


# ---- the manifests among themselves ----

def test_kubectl_agrees(documents, request):
    """That the resolver of these tests is right is for kubectl to say, where it is installed."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    folder = os.path.join(KUBERNETES, request.node.callspec.params["documents"])
    told = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True,
                          timeout=60, check=True)

    def normal(found):
        return sorted(json.dumps(d, sort_keys=True) for d in found)
    theirs = list(yaml.safe_load_all(told.stdout))
    assert normal(theirs) == normal(documents)


def test_selectors(documents):
    pods = {name(w): labels(w) for w in workloads(documents)}
    assert pods
    for workload in workloads(documents):
        assert matches(workload["spec"]["selector"]["matchLabels"], labels(workload))
        replicas = workload["spec"].get("replicas")
        if workload["kind"] == "StatefulSet":
            # what the controller adds to each
            pods.update({f"{name(workload)}-{i}": {
                **labels(workload), "statefulset.kubernetes.io/pod-name": f"{name(workload)}-{i}"}
                for i in range(replicas)})
        terms = json.dumps(workload["spec"]["template"]["spec"])
        for selector in re.findall(r'"labelSelector": {"matchLabels": ({[^}]*})', terms):
            assert matches(json.loads(selector), labels(workload)), selector
    for d in of(documents, "Service"):
        assert any(matches(d["spec"]["selector"], has) for has in pods.values()), name(d)
    for d in of(documents, "PodDisruptionBudget"):
        assert any(matches(d["spec"]["selector"]["matchLabels"], x) for x in pods.values())
    for d in of(documents, "NetworkPolicy"):
        assert any(matches(d["spec"]["podSelector"]["matchLabels"], x) for x in pods.values())


def test_ports(documents):
    for workload in workloads(documents):
        ports = {p["name"]: p["containerPort"] for c in kustomize.pod_of(workload)["containers"]
                 for p in c.get("ports", [])}
        for d in of(documents, "Service"):
            assert {p["targetPort"] for p in d["spec"]["ports"]} <= set(ports), name(d)
        for d in of(documents, "NetworkPolicy"):
            named = {p["port"] for rule in d["spec"]["ingress"] for p in rule["ports"]}
            assert named <= set(ports)
        container = program_of(workload)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports
    for d in of(documents, "ServiceMonitor"):
        for endpoint in d["spec"]["endpoints"]:
            seen = [p for s in of(documents, "Service") for p in s["spec"]["ports"]
                    if matches(d["spec"]["selector"]["matchLabels"], s["metadata"]["labels"])
                    and p["name"] == endpoint["port"]]
            assert len(seen) == 1, endpoint  # or each relay is scraped twice


def test_volumes(documents):
    maps = {name(d) for d in of(documents, "ConfigMap")}
    secrets = {d["spec"]["secretName"] for d in of(documents, "Certificate")}
    for workload in workloads(documents):
        pod = kustomize.pod_of(workload)
        volumes = {v["name"]: v for v in pod["volumes"]}
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= set(volumes)
            paths = sorted(m["mountPath"] for m in container["volumeMounts"])
            # a mount cannot be made inside of one that is read-only
            assert not any(b.startswith(a + "/") for a in paths for b in paths)
        mounted = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        assert mounted == set(volumes)
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "secret" in volume and secrets:
                assert volume["secret"]["secretName"] in secrets


def test_restricted(documents):
    """What the profile "restricted" of Kubernetes asks for; qgs-bridge cannot have it."""
    for workload in workloads(documents):
        pod = kustomize.pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["limits"]["memory"]
            assert not container["image"].endswith(":latest") and ":" in container["image"]
            if name(workload) == "qgs-bridge":
                continue
            assert "add" not in security["capabilities"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] >= 1000
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in v for v in pod["volumes"]) or name(workload) == "qgs-bridge"


def test_each_relay_has_an_address(relay):
    """An agent has a tunnel to each relay, or clients of the others would not find its services."""
    workload, = workloads(relay)
    services = {name(d): d["spec"] for d in of(relay, "Service")}
    each = services[workload["spec"]["serviceName"]]
    assert each["clusterIP"] == "None"
    assert workload["spec"]["replicas"] >= 2
    outside = {s["selector"]["statefulset.kubernetes.io/pod-name"] for s in services.values()
               if s.get("type") == "LoadBalancer"}
    assert outside == {f"{name(workload)}-{i}" for i in range(workload["spec"]["replicas"])}


# ---- the manifests and the programs ----

def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|min|h|d)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}[unit]


def test_config_and_pod(documents, tmp_path):
    """The program takes the config; its listeners, paths and times are the pod's."""
    for program, text, workload in configs(documents):
        path = tmp_path / f"{program}.yaml"
        path.write_text(text)
        told = subprocess.run([binary(PROGRAMS[program]), "--config", path, "--check-config"],
                              capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert told.returncode == 0, told.stderr
        told = subprocess.run([binary(PROGRAMS[program]), "--config", path, "--dump-config"],
                              capture_output=True, text=True, timeout=DEADLINE, check=True)
        config = yaml.safe_load(told.stdout)
        pod = kustomize.pod_of(workload)
        container = program_of(workload)
        stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = seconds(config["timeouts"]["drain"])
        assert pod["terminationGracePeriodSeconds"] > stop + drain + 5
        ports = {p["containerPort"] for p in container.get("ports", [])}
        inside = {int(x.rsplit(":", 1)[1]) for x in
                  [config.get("metrics", ""), *(y["address"] for y in config.get("listeners", []))]
                  if x.startswith("tcp:")}
        assert ports == inside
        at = container["args"][container["args"].index("--config") + 1]
        mounts = {m["mountPath"] for m in container["volumeMounts"]}
        assert os.path.dirname(at) in mounts
        for file in [config.get("token_file"), *config.get("tls", {}).values()]:
            assert not file or os.path.dirname(file) in mounts


def answer(port, path):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        c.request("GET", path)
        return c.getresponse().status
    finally:
        c.close()


def test_relay_answers_its_probes(world, relay):
    """With the config of the manifest, but for what is this machine's."""
    (_, text, workload), = configs(relay)
    config = yaml.safe_load(text)
    metrics = free_port()
    config["metrics"] = f"tcp:127.0.0.1:{metrics}"
    for listener in config["listeners"]:
        listener["address"] = f"tcp:127.0.0.1:{free_port()}"
    config["tls"] = dict(zip(("certificate", "key"), world.certificates.relay))
    running = Relay(world, "relay", config, metrics)
    container = program_of(workload)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert answer(metrics, container[probe]["httpGet"]["path"]) == 200, probe
    for d in of(relay, "ServiceMonitor"):
        assert answer(metrics, d["spec"]["endpoints"][0]["path"]) == 200
    assert answer(metrics, "/nothing") == 404
    running.stop()


@pytest.mark.parametrize("folder,ready", [("tunnel", 503), ("qgs-bridge", 503)])
def test_others_answer_their_probes(world, folder, ready):
    """They are alive, but not ready, while no relay is there, and no QGS."""
    (program, text, workload), = configs(kustomize.build(os.path.join(KUBERNETES, folder)))
    config = yaml.safe_load(text)
    metrics = free_port()
    config["metrics"] = f"tcp:127.0.0.1:{metrics}"
    if program == "attest-tunnel":
        config["relays"] = [f"tcp:127.0.0.1:{free_port()}"]
        config["token_file"] = world.token()[1]
    else:
        config["qgs"]["address"] = f"unix:{world.path('qgs.socket')}"
        config["listeners"] = [{"name": "vms", "address": f"unix:{world.path('vms.socket')}"}]
    with open(world.path("config.yaml"), "w") as f:
        yaml.safe_dump(config, f)
    running = Program(world, program, [binary(PROGRAMS[program]), "--config",
                                       world.path("config.yaml")])
    container = program_of(workload)

    def up():
        assert running.running(), running.tail()
        try:
            return answer(metrics, container["livenessProbe"]["httpGet"]["path"])
        except OSError:
            return None
    assert wait_for(up, lambda: f"{program} listens\n{running.tail()}") == 200
    assert answer(metrics, container["readinessProbe"]["httpGet"]["path"]) == ready
    running.stop()


def test_reload_component(world):
    """The sidecar's script: a signal when a file has changed, and none before."""
    documents = kustomize.build(os.path.join(KUBERNETES, "overlays", "example"))
    pod = kustomize.pod_of(workloads(documents)[0])
    assert pod["shareProcessNamespace"] is True
    sidecar, = [c for c in pod["containers"] if c["name"] == "reload"]
    main = program_of(workloads(documents)[0])
    assert sidecar["image"] == main["image"]
    assert sidecar["volumeMounts"] == main["volumeMounts"]
    script = sidecar["args"][0]
    for mount in main["volumeMounts"]:
        assert mount["mountPath"] + "/" in script
        os.makedirs(world.path("root" + mount["mountPath"]))
    # the same script with folders of ours: a relay is a process of that name below `proc`
    for path in ("/etc/attest-relay", "/run/secrets/attest-relay", "/proc"):
        script = script.replace(path + "/", world.path("root" + path) + "/")
    for file in ("etc/attest-relay/relay.yaml", "run/secrets/attest-relay/tls.crt"):
        with open(world.path(f"root/{file}"), "w") as f:
            f.write("before")
    for process, comm in (("41", "reload"), ("42", "attest-relay")):
        os.makedirs(world.path(f"root/proc/{process}"))
        with open(world.path(f"root/proc/{process}/comm"), "w") as f:
            f.write(comm + "\n")
    # the second turn finds a change, the third none; the fourth ends it
    turns = f"""
turn=0
sleep() {{
    turn=$((turn + 1))
    [ $turn != 2 ] || echo after >{world.path("root/run/secrets/attest-relay/tls.crt")}
    echo turn $turn
    [ $turn != 4 ]
}}
kill() {{ echo kill "$@"; }}
"""
    told = subprocess.run([*sidecar["command"], turns + script], capture_output=True, text=True,
                          timeout=DEADLINE, check=False)
    assert told.stdout.splitlines() == ["turn 1", "turn 2", "kill -HUP 42", "turn 3", "turn 4"], \
        told.stdout + told.stderr


# ---- completion ----

def complete(program, *words):
    """What bash is offered for the last of the words."""
    script = r'''
        complete() { :; }
        compopt() { :; }
        source "$1"
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _attest "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"'''
    told = subprocess.run(
        ["bash", "-euc", script, "bash", os.path.join(ROOT, "contrib/bash-completion/attest-relay"),
         binary(PROGRAMS[program]), *words],
        capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert told.stderr == ""
    return set(told.stdout.split())


def page(program):
    path, = glob.glob(os.path.join(ROOT, "*", f"{program}.[18]"))
    with open(path, encoding="utf-8") as f:
        return f.read()


@pytest.mark.parametrize("program", PROGRAMS)
def test_completion_has_what_the_manual_has(program):
    text = page(program)
    options = set()
    for item in re.findall(r"^\.It (Fl .*)$", text, re.M):
        options |= {"-" + x for x in re.findall(r"\bFl (-?[\w-]+)", item)}
    assert len(options) > 5
    assert complete(program, "-") == options
    item = r"^\.It Cm (\w+)" if program == "attestctl" else r"^\.Nm\n\.Cm (\w+)"
    commands = set(re.findall(item, text, re.M))
    assert complete(program, "") == commands
    assert complete(program, "--ver") == {"--version"}


def test_completion_of_values(tmp_path):
    assert complete("attest-tunnel", "--log-level", "") == {"error", "warning", "info", "debug"}
    assert complete("attest-tunnel", "--transport", "w") == {"websocket"}
    assert complete("attest-tunnel", "--service", "") == set()
    (tmp_path / "relay.yaml").write_text("")
    (tmp_path / "folder").mkdir()
    start = str(tmp_path) + "/"
    everything = {start + "relay.yaml", start + "folder"}
    for option in "-c", "--config":
        assert complete("attest-relay", option, start) == everything
    assert complete("attest-tunnel", "enroll", "--folder", start) == {start + "folder"}
    assert complete("attest-relay", "enroll", "") == {"init", "list", "revoke"}
    assert complete("attest-relay", "token", "n") == {"new"}
    assert complete("attestctl", "--json", "log", "") == {"error", "warning", "info", "debug"}
    assert complete("attestctl", "close", "") == {"stream", "tunnel"}
