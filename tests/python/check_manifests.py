"""Checks Kubernetes manifests against the published schemas of several minors; unknown fields are mistakes.

Usage: check_manifests.py FILE... (YAML, several documents each)
Prints every mistake, then how many objects were checked; exits with 1 where there was a mistake.
"""

import functools
import json
import sys

import kubernetes_validate
import yaml
from kubernetes_validate import utils

# From the oldest that is supported to the newest that the package has.
MINORS = ["1.33", "1.34", "1.35", "1.36", "1.37"]
# Objects of other operators have schemas of their own, which are in no release of Kubernetes.
FOREIGN = {("cert-manager.io/v1", "Certificate"), ("monitoring.coreos.com/v1", "PodMonitor")}


def main(files):
    # The package would read megabytes of definitions for every object.
    utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)
    seen = set()
    mistakes = 0
    for file in files:
        with open(file, encoding="utf-8") as stream:
            documents = [document for document in yaml.safe_load_all(stream) if document is not None]
        if not documents:
            print(f"{file}: holds no object")
            mistakes += 1
        for document in documents:
            if (document["apiVersion"], document["kind"]) in FOREIGN:
                continue
            text = json.dumps(document, sort_keys=True)
            if text in seen:
                continue
            seen.add(text)
            mistakes += check(file, document)
    print(f"{len(seen)} objects, {len(MINORS)} minors, {mistakes} mistakes")
    return 1 if mistakes else 0


def check(file, document):
    mistakes = 0
    for minor in MINORS:
        try:
            used = kubernetes_validate.validate(document, minor, strict=True)
            fault = None if used == minor else f"was checked as {used}"
        except kubernetes_validate.ValidationError as error:
            path = "/".join(str(part) for part in error.absolute_path)
            fault = f"{path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            fault = error.message
        if fault:
            print(f"{file}: {document['kind']} {document['metadata']['name']} ({minor}): {fault}")
            mistakes += 1
    return mistakes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
