"""What is done to a running ingest cluster. Each returns when the operation is over as its user would see it."""

import json
import time

from cluster import Failure
from media import Seen, Witnesses

# The chart's release, and what it calls the cluster.
RELEASE, INGEST = "ingest", "ingest-headwater"
OPERATOR = "headwater-operator"
# A rotation of the CA waits until every process trusts the next one, twice.
ROTATION_SECONDS = 900
# Several times as long as DNS remembers an address, or that there is none (tests/kube/cluster/coredns.yaml).
NAME_SECONDS = 30
# What stays after everything is uninstalled with deletionPolicy Retain, beside the CRDs: the Secrets that the operator
# made, without which stream keys are void, the volume claim of SQLite, the operator's Lease and the pod of `helm test`.
RETAINED = (f"Secret/{INGEST}-", f"PersistentVolumeClaim/{INGEST}-control-data")


def nothing(run):
    """What the witnesses see of nothing at all: the measure of the measure."""
    time.sleep(10)  # media for as long; there is no condition


def edges(run, count):
    def done():
        status = run.cluster.get("igc", run.ingest)
        return status["spec"]["edge"]["replicas"] == count and len(running(run, "edge")) == count

    run.ready()
    run.cluster.wait(f"{count} edges", 240, done)


def running(run, component):
    return [pod for pod in run.pods(component) if "deletionTimestamp" not in pod["metadata"]]


def scale_out(run):
    run.cluster.kubectl("scale", "igc", INGEST, "--replicas=3")
    edges(run, 3)


def scale_in(run):
    run.cluster.kubectl("scale", "igc", INGEST, "--replicas=2")
    edges(run, 2)


def helm_scale(run):
    # The field was kubectl's since `kubectl scale`.
    run.install("--set", "edge.replicas=3", "--force-conflicts")
    edges(run, 3)


def helm_upgrade(run):
    run.install("--set", "edge.replicas=3,image.tag=e2e-changed")

    def done():
        images = {container["image"] for pod in run.pods() for container in pod["spec"]["containers"]}
        return all(image.endswith(":e2e-changed") for image in images)

    run.cluster.wait("every pod to run the changed image", 300, done)


def drain_node(run):
    run.cluster.kubectl(
        *("drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s"), timeout=260
    )
    run.settled()
    run.cluster.kubectl("uncordon", "node2")


def kill_every_origin_in_turn(run):
    """Without a word: gone from the API at once, and its process by SIGKILL. One of them had the streams."""
    for pod in [pod["metadata"]["name"] for pod in run.pods("origin")]:
        uid = run.cluster.get("pod", pod)["metadata"]["uid"]
        run.cluster.kubectl("delete", "pod", pod, "--grace-period=0", "--force")

        def back():
            now = run.cluster.get("pod", pod)
            return now["metadata"]["uid"] != uid and is_ready(now)

        run.cluster.wait(f"{pod} to be back", 120, back)
        # While DNS tells its old address, or none, the death of the next one leaves edges and readers no origin at all.
        run.cluster.wait(f"{pod}'s name to lead to it", NAME_SECONDS, lambda: addresses(run, pod) == {address(run, pod)})
        # What it held comes back to it or stays where it went.
        run.live()


def address(run, pod):
    return run.cluster.get("pod", pod)["status"].get("podIP")


def addresses(run, origin):
    """What clients find when they look an origin's pod up."""
    name = f"{origin}.{run.access.host(f'{run.ingest}-origin')}"
    found = run.cluster.run(run.cluster.client("getent", "ahosts", name))
    return {line.split()[0] for line in found.splitlines()}


def is_ready(pod):
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def rotate_ca(run):
    """A new internal CA, and leaves of it, while everything runs: no pod is restarted."""
    before = {pod["metadata"]["uid"]: restarts(pod) for pod in run.pods()}
    authority, leaf = f"{INGEST}-internal-ca", f"{INGEST}-internal-edge"
    old_authority = run.cluster.secret(authority, "ca.crt")
    old_leaf = run.cluster.secret(leaf, "tls.crt")
    run.cluster.kubectl("annotate", "secret", authority, "headwater.dev/rotate=e2e", "--overwrite")
    run.cluster.wait(
        "leaves of a new CA",
        ROTATION_SECONDS,
        lambda: run.cluster.secret(authority, "ca.crt") != old_authority
        and run.cluster.secret(leaf, "tls.crt") != old_leaf,
    )
    after = {pod["metadata"]["uid"]: restarts(pod) for pod in run.pods()}
    if after != before:
        raise Failure(f"a rotation restarted pods: {before} before, {after} after")


def restarts(pod):
    return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])


# What an operation may cost beyond what no operation may (`Seen.lived`). Where edges go, legacy publishers are cut, and
# their readers wait until they are back. Nothing else may cost anything: not the death of origins, not a rotation of the
# CA, not what `production` does. `recreate` and `uninstall` have no publishers while pods go.
NOTHING, CONNECTIONS = Seen.unnoticed, Seen.reconnected
# Name, what is done, and what it may cost.
LIVE = (
    ("nothing", nothing, NOTHING),
    ("kubectl scale igc: edges 1 to 3", scale_out, NOTHING),
    ("kubectl scale igc: edges 3 to 2", scale_in, CONNECTIONS),
    ("helm upgrade --set edge.replicas=3", helm_scale, NOTHING),
    ("kill each origin pod in turn", kill_every_origin_in_turn, NOTHING),
    ("helm upgrade to a changed image", helm_upgrade, CONNECTIONS),
    ("kubectl drain node2", drain_node, CONNECTIONS),
    ("rotate the internal CA", rotate_ca, NOTHING),
)


def recreate(run):
    """The resource goes and comes again: the keys that were given out still publish."""
    cluster = run.cluster
    cluster.kubectl("delete", "igc", INGEST, "--wait=true", "--timeout=180s", timeout=200)
    cluster.wait("every pod to go", 180, lambda: not run.pods())
    run.install("--set", "edge.replicas=2,image.tag=e2e-changed")
    run.ready()
    witnesses = Witnesses(run.access, run.keys)
    try:
        run.live()
        seen = witnesses.stop()
    except BaseException:
        witnesses.kill()
        raise
    faults = seen.lived()
    if faults:
        raise Failure(f"after delete and create: {'; '.join(faults)}")


def uninstall(run):
    cluster = run.cluster
    cluster.helm("uninstall", RELEASE, "--wait", "--timeout", "180s", timeout=200)
    # The finalizer needs the operator: it goes when the cluster has gone.
    cluster.wait("the cluster resource to go", 180, lambda: not cluster.items("igc"))
    cluster.wait("every pod of it to go", 180, lambda: not run.pods())
    cluster.helm("uninstall", OPERATOR, "--wait", "--timeout", "120s", timeout=140)
    cluster.wait("nothing but what is retained", 90, lambda: not leftovers(run))


def leftovers(run):
    """Every object of the namespace that is neither Kubernetes's own nor documented to stay."""
    cluster = run.cluster
    kinds = cluster.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "--output=name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    found = json.loads(cluster.kubectl("get", ",".join(kinds), "--output=json"))["items"]
    names = [f"{item['kind']}/{item['metadata']['name']}" for item in found]
    ours = ("ConfigMap/kube-root-ca.crt", "ServiceAccount/default", f"Pod/{run.ingest}-test-publish", f"Lease/{OPERATOR}")
    return sorted(
        name for name in names
        if name not in ours and not name.startswith(RETAINED)
    )
