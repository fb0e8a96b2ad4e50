"""Where the figures come from: the machine, the versions, the build."""
import datetime
import json
import os
import platform
import re
import resource
import subprocess

import rigs

NOFILE = 65536      # descriptors asked for; as many as are allowed will do
VERSIONS = {
    "haproxy": ("haproxy", "-v"),
    "nginx": ("nginx", "-v"),
    "OpenSSH": ("ssh", "-V"),
    "stunnel": ("stunnel", "-version"),
    "socat": ("socat", "-V"),
    "systemd": ("systemd-socket-activate", "--version"),
    "OpenSSL": ("openssl", "version"),
}


def output(*argv, **more):
    """What a program says of itself, wherever it says it; nothing if it is not there."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=10, **more)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def versions():
    found = {}
    for name, argv in VERSIONS.items():
        number = re.search(r"\d[\w.+~-]*", output(rigs.which(argv[0]) or argv[0], *argv[1:]))
        if number:
            found[name] = number[0]
    return found


def commit(build):
    """Of the tree that this build was made from, as it is now."""
    try:
        with open(os.path.join(build, "meson-info", "meson-info.json")) as f:
            source = json.load(f)["directories"]["source"]
    except OSError:
        return "of no known commit"
    text = output("git", "describe", "--always", "--dirty", cwd=source).strip()
    return text if re.fullmatch(r"\S+", text) else "of no known commit"


def build_type(folder):
    try:
        with open(os.path.join(folder, "meson-info", "intro-buildoptions.json")) as f:
            options = {o["name"]: o["value"] for o in json.load(f)}
    except OSError:
        return "an unknown kind of build"
    kind = f"a {options['buildtype']} build"
    if options["b_sanitize"] != "none":
        kind += f" with sanitizers ({options['b_sanitize']}): its figures mean little"
    return kind


def describe(folder):
    with open("/proc/cpuinfo") as f:
        cpu = next((x.partition(":")[2].strip() for x in f if x.startswith("model name")), "CPU")
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as f:
        congestion_control = f.read().strip()
    return {"kernel": platform.release(), "congestion_control": congestion_control,
            "root": os.geteuid() == 0, "cpu": cpu, "cores": os.cpu_count(),
            "load_before": os.getloadavg(), "commit": commit(folder), "build": build_type(folder),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": versions()}


def raise_nofile():
    """Only root may have more than the hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for wanted in max(NOFILE, hard), hard:
        try:
            return resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, NOFILE), wanted))
        except (OSError, ValueError):
            pass
