#!/usr/bin/env python3
"""Writes an image of one layer, from scratch, as an OCI archive.

image.py ARCHIVE NAME:TAG --entrypoint PROGRAM [--user UID:GID] FILE=PATH...

For static programs: the image holds these files and the directories above them, nothing else.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OCI = "application/vnd.oci.image"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("archive")
    parser.add_argument("name")
    parser.add_argument("--entrypoint", required=True)
    parser.add_argument("--user", default="65532:65532")
    parser.add_argument("files", nargs="+", metavar="FILE=PATH")
    arguments = parser.parse_args()

    layer = write_layer(file.split("=", 1) for file in arguments.files)
    config = json_bytes(
        {
            "architecture": ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "config": {"Entrypoint": [arguments.entrypoint], "User": arguments.user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    )
    manifest = json_bytes(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": descriptor(f"{OCI}.config.v1+json", config),
            "layers": [descriptor(f"{OCI}.layer.v1.tar", layer)],
        }
    )
    named = descriptor(f"{OCI}.manifest.v1+json", manifest)
    named["annotations"] = {
        "io.containerd.image.name": arguments.name,
        "org.opencontainers.image.ref.name": arguments.name.rsplit(":", 1)[-1],
    }
    with tarfile.open(arguments.archive, "w") as archive:
        add(archive, "oci-layout", json_bytes({"imageLayoutVersion": "1.0.0"}))
        add(archive, "index.json", json_bytes({"schemaVersion": 2, "manifests": [named]}))
        for blob in (config, manifest, layer):
            add(archive, "blobs/" + digest(blob).replace(":", "/"), blob)


def write_layer(files):
    """The same files make the same layer: no times, no owners of this machine."""
    written = io.BytesIO()
    directories = set()
    with tarfile.open(fileobj=written, mode="w") as layer:
        for source, path in files:
            *above, _ = path.strip("/").split("/")
            for depth in range(1, len(above) + 1):
                directory = "/".join(above[:depth])
                if directory not in directories:
                    directories.add(directory)
                    entry = tarfile.TarInfo(directory)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    layer.addfile(entry)
            with open(source, "rb") as content:
                add(layer, path.strip("/"), content.read(), 0o755 if os.access(source, os.X_OK) else 0o644)
    return written.getvalue()


def add(archive, path, content, mode=0o644):
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def descriptor(media_type, content):
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def json_bytes(value):
    return json.dumps(value).encode()


if __name__ == "__main__":
    main()
