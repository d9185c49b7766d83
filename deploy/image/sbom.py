#!/usr/bin/env python3
"""Writes the software bill of materials (SPDX 2.3) of the image, and the licence texts of the crates in the program.

What is compiled into the program comes from `cargo metadata` (normal dependencies for one target, macros included),
checksums from Cargo.lock, Debian's libraries from the dpkg status files of the root file system (deploy/image/rootfs.sh).
The same source gives the same bytes: the document is made at SOURCE_DATE_EPOCH, and named by what is in it.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import datetime, timezone
from pathlib import Path

PROGRAM = "headwater"
# Debian's copyright files are prose. These are the licences of what the image carries of each package; one that is not
# here must be looked up before it ships.
DEBIAN_LICENCES = {
    "ca-certificates": "MPL-2.0 AND GPL-2.0-or-later",
    "libc6": "LGPL-2.1-or-later",
    "libgcc-s1": "GPL-3.0-or-later WITH GCC-exception-3.1",
}
TEXTS = re.compile(r"^(licen[sc]e|copying|copyright|notice|unlicense)", re.IGNORECASE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="the target triple")
    parser.add_argument("--status", type=Path, help="the directory with the dpkg status files")
    parser.add_argument("--notices", type=Path, help="where the licence texts go")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    graph = dependencies(arguments.target)
    document = sbom(graph, debian(arguments.status) if arguments.status else [])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    if arguments.notices:
        arguments.notices.parent.mkdir(parents=True, exist_ok=True)
        arguments.notices.write_text(notices([package for package, _ in graph.values()]))


def dependencies(target):
    """Every package in the program, by id, with the ids of what it depends on. The program comes first."""
    metadata = json.loads(cargo("metadata", "--format-version=1", f"--filter-platform={target}"))
    packages = {package["id"]: package for package in metadata["packages"]}
    # The metadata's graph has optional dependencies that no feature turns on. `cargo tree` leaves them out.
    tree = ["tree", f"--package={PROGRAM}", "--edges=normal", f"--target={target}", "--prefix=none", "--format={p}"]
    compiled = {tuple(line.split()[:2]) for line in cargo(*tree).splitlines()}
    unused = {id for id, package in packages.items() if (package["name"], f"v{package['version']}") not in compiled}
    arrows = {
        node["id"]: sorted(
            dependency["pkg"]
            for dependency in node["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]) and dependency["pkg"] not in unused
        )
        for node in metadata["resolve"]["nodes"]
    }
    waiting = [id for id in metadata["workspace_members"] if packages[id]["name"] == PROGRAM]
    graph = {}
    while waiting:
        id = waiting.pop()
        if id not in graph:
            graph[id] = packages[id], arrows[id]
            waiting.extend(graph[id][1])
    return graph


def cargo(*arguments):
    command = [os.environ.get("CARGO", "cargo"), *arguments, "--locked"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def debian(status):
    stanzas = [dict(re.findall(r"^([\w-]+): (.*)$", path.read_text(), re.M)) for path in sorted(status.iterdir())]
    unknown = [stanza["Package"] for stanza in stanzas if stanza["Package"] not in DEBIAN_LICENCES]
    if unknown:
        sys.exit(f"sbom: the licence of {', '.join(unknown)} is not in deploy/image/sbom.py")
    return stanzas


def sbom(graph, libraries):
    with open("Cargo.lock", "rb") as file:
        locked = tomllib.load(file)["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in locked}
    names = {id: element("crate", package["name"], package["version"]) for id, (package, _) in graph.items()}
    program = next(iter(names.values()))
    packages = [crate(names[id], package, checksums) for id, (package, _) in graph.items()]
    packages += [library(stanza) for stanza in libraries]
    arrows = [(names[id], names[below]) for id, (_, all_below) in graph.items() for below in all_below]
    arrows += [(program, library(stanza)["SPDXID"]) for stanza in libraries]
    content = json.dumps([packages, arrows], sort_keys=True).encode()
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), timezone.utc)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{PROGRAM}-{packages[0]['versionInfo']}",
        "documentNamespace": f"https://headwater.dev/spdx/{PROGRAM}-{hashlib.sha256(content).hexdigest()}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Organization: Headwater", "Tool: deploy/image/sbom.py"],
        },
        "packages": sorted(packages, key=lambda package: package["SPDXID"]),
        "relationships": [relation("SPDXRef-DOCUMENT", "DESCRIBES", program)]
        + [relation(above, "DEPENDS_ON", below) for above, below in sorted(arrows)],
    }


def crate(name, package, checksums):
    # `MIT/Apache-2.0` is how crates wrote `MIT OR Apache-2.0` before SPDX expressions.
    licence = re.sub(r"\s*/\s*", " OR ", package["license"] or "NOASSERTION")
    entry = {
        "SPDXID": name,
        "name": package["name"],
        "versionInfo": package["version"],
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": licence,
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
    }
    if package["source"]:
        purl = f"pkg:cargo/{package['name']}@{package['version']}"
        entry["externalRefs"] = [reference(purl)]
        checksum = checksums[package["name"], package["version"]]
        entry["checksums"] = [{"algorithm": "SHA256", "checksumValue": checksum}]
    return entry


def library(stanza):
    name, version = stanza["Package"], stanza["Version"]
    return {
        "SPDXID": element("debian", name, version),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": DEBIAN_LICENCES[name],
        "licenseDeclared": DEBIAN_LICENCES[name],
        "copyrightText": "NOASSERTION",
        "externalRefs": [reference(f"pkg:deb/debian/{name}@{version}?arch={stanza['Architecture']}")],
    }


def reference(purl):
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}


def relation(above, kind, below):
    return {"spdxElementId": above, "relationshipType": kind, "relatedSpdxElement": below}


def element(kind, name, version):
    return f"SPDXRef-{kind}-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{name}-{version}")


def notices(packages):
    """Each licence text once, under the names of the crates that carry it."""
    texts = {}
    for package in packages:
        if package["source"]:
            for path in sorted(Path(package["manifest_path"]).parent.iterdir()):
                if path.is_file() and TEXTS.match(path.name):
                    text = path.read_text(errors="replace").strip()
                    texts.setdefault(text, set()).add(f"{package['name']} {package['version']}")
    blocks = sorted((sorted(crates), text) for text, crates in texts.items())
    return "\n".join(f"{'=' * 80}\n{', '.join(crates)}\n{'=' * 80}\n{text}\n" for crates, text in blocks)


if __name__ == "__main__":
    main()
