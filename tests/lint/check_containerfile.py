#!/usr/bin/python3
"""Holds the images' recipe to what a cluster's administrator asks of an image.

Usage: check_containerfile.py TOP

Bases have a tag that is not "latest"; images run as a user given by number, which is not root; they take
programs from the stage that built them, and nothing from the source; lists of packages are removed in
the step that fetched them; nothing is fetched but by apt; no probe of the image's own; labels; the ports
are those of the examples in packaging/kubernetes. What .containerignore leaves out is not copied. A
recipe that has each of the faults must be told of each: else this says nothing. Prints each fault; exits 1
if there is one.
"""
import json
import os
import re
import sys

PATH = 'packaging/oci/Containerfile'
TARGETS = {'attest-relay', 'attest-tunnel', 'qgs-bridge'}
LABELS = {'org.opencontainers.image.' + x for x in ('title', 'description', 'version', 'licenses')}
BAD = """
ARG BASE=debian:latest
FROM ${BASE} AS build
COPY . /src
RUN apt-get update && apt-get install -y gcc
ADD https://example.org/x /x
RUN curl -o /y https://example.org/y
FROM debian AS attest-relay
COPY relay /relay
HEALTHCHECK CMD /bin/true
USER root
ENTRYPOINT /usr/bin/attest-relay
"""
BAD_FAULTS = 12


def stages(text):
    """[(base, name, [(instruction, argument), ...])], with what an ARG before all defaults to."""
    found, arguments = [], {}
    text = re.sub(r'^\s*#.*\n', '', text, flags=re.M)
    for line in re.sub(r'\\\n', ' ', text).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(' ')
        rest = re.sub(r'\$\{(\w+)\}', lambda m: arguments.get(m[1], m[0]), rest.strip())
        if word == 'ARG' and not found:
            key, _, value = rest.partition('=')
            arguments[key] = value
        elif word == 'FROM':
            base, _, name = rest.partition(' AS ')
            found.append((base, name, []))
        else:
            found[-1][2].append((word, rest))
    return found


def whole(found, name):
    """All instructions of a stage, with those of the stages it is FROM; and their outermost base."""
    named = {n: (base, says) for base, n, says in found}
    base, says = named[name]
    if base in named:
        outer, before = whole(found, base)
        return outer, before + says
    return base, says


def check_stages(found):
    names = {name for _, name, _ in found}
    for base, name, says in found:
        if base not in names and not re.search(r':(?!latest$)[\w.-]+$|@sha256:[0-9a-f]{64}$', base):
            yield f'{name}: its base {base} has no tag, or "latest"'
        for word, rest in says:
            if word == 'ADD':
                yield f'{name}: ADD {rest}: what is fetched is not verified'
            if word == 'COPY' and rest.split()[0] == '.':
                yield f'{name}: copies the whole tree'
            if word == 'RUN' and re.search(r'apt-get update|install-packages', rest) and \
                    not rest.endswith('rm -rf /var/lib/apt/lists/*'):
                yield f'{name}: leaves the lists of packages'
            if word == 'RUN' and re.search(r'\b(curl|wget|git clone)\b', rest):
                yield f'{name}: fetches by itself: {rest[:60]}'
            if word == 'RUN' and 'apt-get install' in rest and '--no-install-recommends' not in rest:
                yield f'{name}: installs what is only recommended'


def check_image(found, name):
    _, says = whole(found, name)
    last = dict(says)   # of several the last counts
    user = last.get('USER', '0')
    if not re.fullmatch(r'[1-9]\d*:[1-9]\d*', user):
        yield f'{name}: USER {user}: not a number, or root'
    for word, rest in says:
        if word == 'COPY' and not rest.startswith(f'--from=build /out/usr/bin/{name} '):
            yield f'{name}: COPY {rest}: not the program alone'
        if word == 'HEALTHCHECK' and rest != 'NONE':
            yield f'{name}: HEALTHCHECK {rest}: Kubernetes has probes of its own'
    try:
        if json.loads(last['ENTRYPOINT']) != [f'/usr/bin/{name}']:
            yield f'{name}: ENTRYPOINT is not the program'
    except (KeyError, ValueError):
        yield f'{name}: ENTRYPOINT takes a shell, or is not there'
    labels = {x for word, rest in says if word == 'LABEL' for x in re.findall(r'([\w.]+)=', rest)}
    if not LABELS <= labels:
        yield f'{name}: no label {", ".join(sorted(LABELS - labels))}'


def read(top, path):
    with open(os.path.join(top, path), encoding='utf-8') as file:
        return file.read()


def check(top, text):
    found = stages(text)
    wrong = list(check_stages(found))
    for name in sorted(TARGETS & {n for _, n, _ in found}):
        wrong += check_image(found, name)
    ignored = {line.rstrip('/') for line in read(top, '.containerignore').splitlines()}
    for _, name, says in found:
        for word, rest in says:
            for source in rest.split()[:-1] if word == 'COPY' and '--from' not in rest else []:
                if not os.path.exists(os.path.join(top, source)) or source in ignored:
                    wrong.append(f'{name}: COPY {source}: it is not there, or ignored')
    return wrong


def main():
    top, = sys.argv[1:]
    text = read(top, PATH)
    wrong = [f'{PATH}: {x}' for x in check(top, text)]
    wrong += [f'{PATH}: no target {x}' for x in sorted(TARGETS - {n for _, n, _ in stages(text)})]
    version = re.search(r"version: '([\d.]+)'", read(top, 'meson.build'))[1]
    if set(re.findall(r'image\.version=(\S+)', text)) != {version}:
        wrong.append(f'{PATH}: its version is not {version}')
    for path, pattern in (('packaging/debian/changelog', r'^attest-relay \(([\d.]+)\)'),
                          ('packaging/rpm/attest-relay.spec', r'(?m)^Version: +([\d.]+)$')):
        if re.search(pattern, read(top, path))[1] != version:
            wrong.append(f'{path}: its version is not {version}')
    exposed = {x for word, rest in whole(stages(text), 'attest-relay')[1] if word == 'EXPOSE'
               for x in rest.split()}
    pod = set(re.findall(r'containerPort: (\d+)', read(top, 'packaging/kubernetes/relay/stateful-set.yaml')))
    if exposed != pod:
        wrong.append(f'{PATH}: exposes {sorted(exposed)}, the pod has {sorted(pod)}')
    faults = check(top, BAD)
    if len(faults) != BAD_FAULTS:
        wrong.append(f'of a bad recipe it says {len(faults)} faults: {faults}')
    print('\n'.join(wrong) or f'{len(TARGETS)} images are in order')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
