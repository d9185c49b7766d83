#!/usr/bin/env python3
"""Makes an OCI image archive from a directory, without a daemon and without a registry.

The last stage of a Dockerfile says what the image is: its user, entry point, labels and so on are read from there, so
that this image and the one that `docker build` makes cannot differ in them. What that stage copies is ROOTFS here, and
makes one layer.

The same input gives the same bytes: names are sorted, times are SOURCE_DATE_EPOCH (or 0), everything belongs to root.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import stat
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

# The names that OCI gives to what `uname -m` says.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main():
    arguments = parse_arguments()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    values = dict(value.split("=", 1) for value in arguments.build_arg)
    settings = final_stage(arguments.file.read_text(), values)
    layer = pack(tree(arguments.rootfs, epoch))
    name = arguments.name if ":" in arguments.name.rpartition("/")[2] else f"{arguments.name}:latest"
    archive = image(layer, settings, arguments.architecture, name, epoch)
    arguments.output.write_bytes(archive)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the Dockerfile")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--name", required=True, help="REPOSITORY:TAG, as containerd is to know it")
    parser.add_argument("--architecture", default=ARCHITECTURES.get(platform.machine()), choices=ARCHITECTURES.values())
    parser.add_argument("rootfs", type=Path)
    parser.add_argument("output", type=Path)
    return parser.parse_args()


def final_stage(text, values):
    """The image configuration that the last stage of a Dockerfile sets."""
    config, labels, arguments = {}, {}, {}
    every = list(instructions(text))
    last = max(index for index, (instruction, _) in enumerate(every) if instruction == "FROM")
    for instruction, rest in every[last + 1 :]:
        if instruction == "ARG":
            name, _, default = rest.partition("=")
            arguments[name] = values.get(name, default.strip('"'))
            continue
        rest = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], rest)
        match instruction:
            case "USER":
                config["User"] = rest
            case "WORKDIR":
                config["WorkingDir"] = rest
            case "ENTRYPOINT" | "CMD":
                config[instruction.capitalize()] = json.loads(rest)
            case "ENV":
                config.setdefault("Env", []).extend(shlex.split(rest))
            case "EXPOSE":
                config.setdefault("ExposedPorts", {}).update((f"{port}/tcp", {}) for port in rest.split())
            case "LABEL":
                labels.update(pair.split("=", 1) for pair in shlex.split(rest))
            case "RUN" | "COPY":
                pass  # the root file system is made already
            case _:
                sys.exit(f"build: {instruction} in the last stage of the Dockerfile is not known here")
    return {**config, **({"Labels": labels} if labels else {})}


def instructions(text):
    """Every instruction with what follows it, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        yield instruction.upper(), rest.strip()


def tree(root, epoch):
    """An uncompressed layer: every file below the directory, in the order of their names."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            member = archive.gettarinfo(path, str(path.relative_to(root)))
            if member.issym() or member.isdir() or member.isreg():
                member.mode = stat.S_IMODE(path.lstat().st_mode)
            else:
                sys.exit(f"build: {path} is no file, directory or link")
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            if member.isreg():
                with path.open("rb") as content:
                    archive.addfile(member, content)
            else:
                archive.addfile(member)
    return layer.getvalue()


def pack(layer):
    return layer, gzip.compress(layer, compresslevel=6, mtime=0)


def image(layer, settings, architecture, name, epoch):
    """The archive: https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md"""
    raw, packed = layer
    created = timestamp(epoch)
    config = encode({
        "architecture": architecture,
        "config": settings,
        "created": created,
        "history": [{"created": created, "created_by": "COPY rootfs / # deploy/image/build.py"}],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(raw)]},
    })
    manifest = encode({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar+gzip", packed)],
    })
    index = encode({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            **descriptor("manifest.v1+json", manifest),
            "platform": {"architecture": architecture, "os": "linux"},
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            },
        }],
    })
    files = {"index.json": index, "oci-layout": encode({"imageLayoutVersion": "1.0.0"})}
    files.update((f"blobs/sha256/{digest(blob)[7:]}", blob) for blob in (config, manifest, packed))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size, member.mtime, member.mode = len(files[path]), epoch, 0o644
            out.addfile(member, io.BytesIO(files[path]))
    return archive.getvalue()


def timestamp(epoch):
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def descriptor(kind, blob):
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(blob), "size": len(blob)}


def digest(blob):
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def encode(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()
