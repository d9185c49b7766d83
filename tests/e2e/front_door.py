"""What stands at the front door, as those use it who stand there: players over RTMP and a support engineer, in pods of
another namespace, and encoders with certificates of their own."""

import json

from cluster import REPOSITORY, Failure
from media import APPLICATION, Child

# Not one of the ingest cluster's: its NetworkPolicies let it in to playback by name (values.yaml).
NAMESPACE = "consumers"
SOURCE = REPOSITORY / "tests/fixtures/source.flv"
# For a pod to start, and to do what it is there for.
STARTED_SECONDS = 120
# Lines of a player that has played for some seconds.
PACKETS_MIN = 300
# As `headwater probe --help` has them.
PROBE_TLS = 12
CAMERA = "camera-7.example"
AUTHORITY = "encoder-authority"
# Debian's FFmpeg of tests/encoders; the image has no shell and no player, and is not asked for one.
PLAYER = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  containers:
    - name: player
      image: IMAGE
      imagePullPolicy: IfNotPresent
      command: COMMAND
      volumeMounts: [{name: players, mountPath: /players, readOnly: true}]
  volumes: [{name: players, hostPath: {path: "ROOT", type: Directory}}]
"""


def front_door(run):
    cluster = run.cluster
    cluster.inside("kubectl", "create", "namespace", NAMESPACE)
    run.access.refresh()
    key = run.access.create_key("front-door")
    try:
        run.step("players in another namespace, over RTMP", lambda: players(run, key))
        run.step("headwater probe by kubectl run", lambda: probes(run, key))
        run.step("client certificates are required", lambda: client_certificates(run, key))
    finally:
        cluster.inside("kubectl", "delete", "namespace", NAMESPACE, "--wait=true")


def players(run, key):
    """Any origin gives every packet from a keyframe on; who has no token is told."""
    access, cluster = run.access, run.cluster
    token = access.file("playback-token").read_text().strip()
    publisher = Child(access, "front-door", publish(run, key, loops=True))
    try:
        cluster.wait("the stream to be live", 30, lambda: "front-door" in access.live_streams())
        (owner,) = [session["origin"] for session in access.api("sessions", "list") if session["stream"] == "front-door"]
        everywhere = {
            "player" if origin.startswith(f"{owner}.") else "elsewhere": origin for origin in access.origins(1936)
        }
        path = f"{APPLICATION}/front-door"
        for name, at in everywhere.items():
            play(run, name, f"rtmp://{at}/{path}?token={token}")
        play(run, "stranger", f"rtmp://{everywhere['player']}/{path}")
        cluster.wait("the player without a token to be refused", STARTED_SECONDS, lambda: phase(run, "stranger") == "Failed")
        if "A valid token is required" not in logs(run, "stranger"):
            raise Failure(f"the player without a token is told:\n{logs(run, 'stranger')}")
        for name in everywhere:
            cluster.wait(f"{name} to play", STARTED_SECONDS, lambda: len(logs(run, name).splitlines()) > PACKETS_MIN)
    finally:
        publisher.end()
    source = packets(cluster.run(remuxed("ffmpeg", SOURCE)))
    for name in everywhere:
        cluster.wait(f"{name} to see the end", STARTED_SECONDS, lambda: phase(run, name) == "Succeeded")
        missed_none(name, packets(logs(run, name)), source)


def missed_none(name, played, source):
    if played.keys() != source.keys():
        raise Failure(f"{name} got the streams {sorted(played)} of {sorted(source)}")
    for stream in source:
        if not is_part_of_loop(played[stream], source[stream]):
            raise Failure(f"{name}, stream {stream}: {len(played[stream])} packets, and not one after the other")
    counts = " and ".join(str(len(played[stream])) for stream in sorted(played))
    print(f"e2e: {name} in {NAMESPACE} got {counts} packets, and missed none", flush=True)


def is_part_of_loop(part, loop):
    """Whether it is what comes out of a loop, from somewhere on and without anything missing."""
    return any(
        all(packet == loop[(start + index) % len(loop)] for index, packet in enumerate(part))
        for start in range(len(loop))
    )


def play(run, name, url):
    root = (run.cluster.work.parent / "encoders/root").resolve()
    # By the loader of its own libraries: these are not the image's.
    libraries = "/players/usr/lib/x86_64-linux-gnu"
    loader = (f"{libraries}/ld-linux-x86-64.so.2", "--library-path", f"{libraries}:{libraries}/pulseaudio")
    manifest = PLAYER
    for word, value in (
        ("COMMAND", json.dumps([*loader, *remuxed("/players/usr/bin/ffmpeg", url)])),
        ("IMAGE", f"{run.repository}:e2e"),
        ("NAMESPACE", NAMESPACE),
        ("NAME", name),
        ("ROOT", str(root)),
    ):
        manifest = manifest.replace(word, value)
    run.cluster.inside("kubectl", "apply", "--filename=-", input=manifest)


def remuxed(ffmpeg, source):
    """A line for each packet: its stream, times, size and checksum."""
    return [
        *(ffmpeg, "-nostdin", "-loglevel", "error", "-i", str(source)),
        *("-map", "0:v", "-map", "0:a", "-c", "copy", "-f", "framecrc", "-"),
    ]


def packets(lines):
    """Sizes and checksums, for each stream."""
    found = {}
    for line in lines.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) >= 6 and cells[0].isdigit():
            found.setdefault(cells[0], []).append((cells[4], cells[5]))
    return found


def publish(run, key, *options, loops=False):
    return (
        *("ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin", "-re"),
        *("-stream_loop", "-1" if loops else "0", "-i", SOURCE),
        *("-map", "0", "-c", "copy", "-f", "flv", *options, f"{run.access.edge_service()}/{key}"),
    )


def phase(run, pod):
    return status(run, pod)["phase"]


def exit_code(run, pod):
    return status(run, pod)["containerStatuses"][0]["state"]["terminated"]["exitCode"]


def status(run, pod):
    pod = run.cluster.inside("kubectl", "get", "pod", pod, f"--namespace={NAMESPACE}", "--output=json")
    return json.loads(pod)["status"]


def logs(run, pod):
    return run.cluster.inside("kubectl", "logs", pod, f"--namespace={NAMESPACE}")


def probes(run, key):
    """As docs/operations.md says it, with the key on standard input: it is in no pod's specification."""
    server = run.access.edge_service()
    said = probe(run, server, fails=PROBE_TLS)
    if "FAILED at TLS: the certificate is self-signed" not in said:
        raise Failure(f"the probe says of a self-signed certificate:\n{said}")
    way = ["tcp", "tls", "handshake", "connect"]
    for arguments, given, expected in (
        ((), None, way),
        (("--key-file=-", "--media=2s"), key, [*way, "publish", "media"]),
    ):
        said = probe(run, "--insecure", "--json", *arguments, server, input=given)
        report, _ = json.JSONDecoder().raw_decode(said[said.index("{"):])
        steps = [step["step"] for step in report["addresses"][0]["steps"]]
        if steps != expected or report["failed"] is not None or key in said:
            raise Failure(f"the probe says:\n{said.replace(key, 'KEY')}")


def probe(run, *arguments, input=None, fails=0):
    """What it prints, where it ends with that exit code."""
    command = (
        *("kubectl", "run", "probe", f"--namespace={NAMESPACE}", "--restart=Never", "--quiet"),
        *(f"--image={run.repository}:e2e", "--image-pull-policy=IfNotPresent"),
    )
    told = ("--", "probe", *arguments)
    if input is not None:
        return run.cluster.inside(*command, "--rm", "--stdin", *told, input=input)
    # Its log is read: one that ends at once has ended before kubectl is attached to it, which then prints nothing.
    run.cluster.inside(*command, *told)
    try:
        run.cluster.wait("the probe to end", STARTED_SECONDS, lambda: phase(run, "probe") in ("Failed", "Succeeded"))
        said, code = logs(run, "probe"), exit_code(run, "probe")
    finally:
        run.cluster.inside("kubectl", "delete", "pod", "probe", f"--namespace={NAMESPACE}")
    if code != fails:
        raise Failure(f"the probe ends with {code}, where it is to end with {fails}:\n{said}")
    return said


def client_certificates(run, key):
    """Whoever shows a certificate of that authority gets in, and nobody else."""
    cluster, access = run.cluster, run.access
    directory = access.directory
    issue(cluster, directory)
    cluster.kubectl("create", "secret", "generic", AUTHORITY, f"--from-file=ca.crt={directory / 'encoders.crt'}")
    tag = run.pods("edge")[0]["spec"]["containers"][0]["image"].rpartition(":")[2]
    required = f"mode=Required,caSecretRef.name={AUTHORITY},caSecretRef.key=ca.crt"
    settings = ",".join(f"tls.clientCertificates.{setting}" for setting in required.split(","))
    reinstall(run, tag, "--set", settings)
    shown = ("-cert_file", directory / "camera.crt", "-key_file", directory / "camera.key")
    said = probe(run, "--insecure", access.edge_service(), fails=PROBE_TLS)
    if "FAILED at TLS" not in said or "The server wants a client certificate" not in said:
        raise Failure(f"the probe says of a certificate that is missing:\n{said}")
    refused = Child(access, "refused", publish(run, key))
    if refused.process.wait(STARTED_SECONDS) == 0:
        raise Failure("an encoder without a certificate publishes")
    publisher = Child(access, "camera-7", publish(run, key, *shown))
    try:
        cluster.wait("who shows a certificate to be live", 30, lambda: "front-door" in access.live_streams())
        if publisher.process.wait(STARTED_SECONDS) != 0:
            raise Failure(f"an encoder with a certificate ends: {publisher.log.read_text()}")
    finally:
        publisher.process.kill()
    reinstall(run, tag)
    cluster.kubectl("delete", "secret", AUTHORITY)


def reinstall(run, tag, *values):
    """With other values, the program as it is."""
    run.install("--set", f"image.tag={tag}", *values)
    run.settled()


def issue(cluster, directory):
    """An authority of encoders, and the certificate of one of them."""
    new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")
    authority = (directory / "encoders.crt", directory / "encoders.key")
    cluster.run([*new, "-subj", "/CN=encoders", "-out", authority[0], "-keyout", authority[1]])
    cluster.run([
        *(*new, "-CA", authority[0], "-CAkey", authority[1], "-subj", f"/CN={CAMERA}"),
        *("-addext", f"subjectAltName=DNS:{CAMERA}", "-addext", "basicConstraints=critical,CA:FALSE"),
        *("-out", directory / "camera.crt", "-keyout", directory / "camera.key"),
    ])
