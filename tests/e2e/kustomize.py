"""What `kubectl kustomize` would make of a folder, as far as packaging/kubernetes uses it.

Resources, bases, components, namespace, labels, images, and patches of both kinds. A key that is not
known here is an error, so that nothing is left out in silence.
"""
import os

import yaml

KNOWN = {"apiVersion", "kind", "resources", "components", "namespace", "labels", "images", "patches"}
CLUSTER_WIDE = {"Namespace"}


def load(path):
    with open(path, encoding="utf-8") as f:
        return [d for d in yaml.safe_load_all(f) if d]


def merge(to, patch):
    """A strategic merge: maps are merged, lists of things with names by name, others replaced."""
    for key, value in patch.items():
        old = to.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            merge(old, value)
        elif isinstance(value, list) and isinstance(old, list) and \
                all(isinstance(x, dict) and "name" in x for x in value + old):
            for item in value:
                same = [x for x in old if x["name"] == item["name"]]
                if same:
                    merge(same[0], item)
                else:
                    old.insert(0, item)
        else:
            to[key] = value


def replace(document, operation):
    assert operation["op"] == "replace", operation
    *way, last = operation["path"].strip("/").split("/")
    for step in way:
        document = document[step]
    assert last in document, operation
    document[last] = operation["value"]


def targets(documents, wanted):
    found = [d for d in documents if d["kind"] == wanted["kind"]
             and d["metadata"]["name"] == wanted["name"]]
    assert found, f"nothing is patched: {wanted}"
    return found


def apply_patch(documents, patch, folder):
    if "path" in patch:
        bodies = load(os.path.join(folder, patch["path"]))
    else:
        bodies = [yaml.safe_load(patch["patch"])]
    for body in bodies:
        if isinstance(body, list):
            for document in targets(documents, patch["target"]):
                for operation in body:
                    replace(document, operation)
        else:
            to = {"kind": body["kind"], "name": body["metadata"]["name"]}
            for document in targets(documents, patch.get("target", to)):
                merge(document, body)


def pod_of(document):
    return document.get("spec", {}).get("template", {}).get("spec")


def add_labels(document, pairs, selectors):
    document["metadata"].setdefault("labels", {}).update(pairs)
    if not selectors:
        return
    spec = document.get("spec", {})
    kind = document["kind"]
    if pod_of(document):
        template = spec["template"].setdefault("metadata", {})
        template.setdefault("labels", {}).update(pairs)
        spec.setdefault("selector", {}).setdefault("matchLabels", {}).update(pairs)
    elif kind == "Service":
        spec.setdefault("selector", {}).update(pairs)
    else:  # only one that is there already is added to
        for selector in ("podSelector", "selector"):
            if spec.get(selector, {}).get("matchLabels") and kind != "ServiceMonitor":
                spec[selector]["matchLabels"].update(pairs)


def rename_images(document, images):
    for container in (pod_of(document) or {}).get("containers", []):
        name, _, tag = container["image"].rpartition(":")
        for image in images:
            if image["name"] == name:
                container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


def build(folder, onto=None):
    """The documents of a folder; of a component: those it is applied to as well."""
    says, = load(os.path.join(folder, "kustomization.yaml"))
    assert set(says) <= KNOWN, f"{folder}: {set(says) - KNOWN}"
    assert (says["kind"] == "Component") == (onto is not None), folder
    documents = onto if onto is not None else []
    for name in says.get("resources", []):
        path = os.path.join(folder, name)
        documents.extend(build(path) if os.path.isdir(path) else load(path))
    for name in says.get("components", []):
        build(os.path.join(folder, name), documents)
    for patch in says.get("patches", []):
        apply_patch(documents, patch, folder)
    for document in documents:
        if "namespace" in says and document["kind"] not in CLUSTER_WIDE:
            document["metadata"]["namespace"] = says["namespace"]
        for labels in says.get("labels", []):
            assert set(labels) <= {"pairs", "includeSelectors"}, labels
            add_labels(document, labels["pairs"], labels.get("includeSelectors", False))
        rename_images(document, says.get("images", []))
    return documents
