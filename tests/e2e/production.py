"""Production's values, by Helm 3: three charts, Redis and PostgreSQL outside of the cluster, two zones, three controls."""

import time

import scenarios
from audit import Audit
from cluster import REPOSITORY, Cluster, Failure
from media import APPLICATION, Access, Child, Seen
from stores import Stores

NAMESPACE = "production"
RELEASE, INGEST = "live", "live-headwater"
OPERATOR, CRDS = "headwater-operator", "headwater-crds"
VALUES = (
    *("charts/headwater/values-production.yaml", "charts/headwater/values-ha.yaml"),
    *("tests/e2e/values.yaml", "tests/e2e/values-production.yaml"),
)
# What values-production.yaml says.
KEY_PREFIX = "hw-ingest"
NAMESPACE_MANIFEST = f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels: {{pod-security.kubernetes.io/enforce: restricted}}
"""
# The goal is two seconds.
REVOKED_SECONDS = 10


def production(run):
    """Everything from the three charts to nothing, in a namespace of its own."""
    cluster = Cluster(run.cluster.work, NAMESPACE, helm="helm3")
    cluster.inside("kubectl", "apply", "--filename=-", input=NAMESPACE_MANIFEST)
    for node, zone in (("node1", "a"), ("node2", "b")):
        cluster.inside("kubectl", "label", "node", node, f"topology.kubernetes.io/zone={zone}", "--overwrite")
    stores = Stores(cluster, KEY_PREFIX)
    try:
        there = run.beside(cluster, RELEASE, INGEST, VALUES)
        there.step("Helm 3: three charts, production values", lambda: install(there))
        there.witnessed("Helm 3, production: a control dies, a key is revoked, edges 2 to 3", changes, Seen.unnoticed)
        there.step("Helm 3: helm test", lambda: cluster.helm("test", RELEASE, "--timeout", "240s"))
        refused = Audit(cluster, OPERATOR).refused()
        run.failures += [f"the operator in {NAMESPACE} was refused: {request}" for request in refused]
        there.step("Helm 3: uninstall leaves nothing", lambda: uninstall(there))
    finally:
        stores.stop()


def install(run):
    cluster, charts = run.cluster, REPOSITORY / "charts"
    # The CRDs stayed when the first release went, and still name it.
    cluster.helm("install", CRDS, charts / CRDS, "--take-ownership")
    cluster.helm(
        *("install", OPERATOR, charts / OPERATOR, "--wait", "--timeout", "120s"),
        *("--set", f"crds.enabled=false,image.repository={run.repository},image.tag=e2e"),
    )
    run.install()
    run.ready()
    run.access = Access(cluster, INGEST, run.program)
    run.keys = {stream: run.access.create_key(stream) for stream in run.keys}


def changes(run):
    kill_a_control(run)
    revoke(run)
    run.install("--set", "edge.replicas=3")
    scenarios.edges(run, 3)


def kill_a_control(run):
    """Without a word, while three are there: the API goes on."""
    name = run.pods("control")[0]["metadata"]["name"]
    run.cluster.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    run.cluster.wait("the API to answer", 30, lambda: run.access.api("keys", "list"))


def revoke(run):
    """A key, while it publishes."""
    access = run.access
    secret = access.create_key("revoked")
    publisher = Child(access, "revoked", (
        *("ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin", "-re", "-stream_loop", "-1"),
        *("-i", REPOSITORY / "tests/fixtures/source.flv", "-c", "copy", "-f", "flv"),
        f"{access.edge_service()}/{secret}",
    ))
    try:
        run.cluster.wait("the stream to be live", 30, lambda: "revoked" in access.live_streams())
        (key,) = [key for key in access.api("keys", "list") if key["stream"] == "revoked"]
        began = time.monotonic()
        access.api("keys", "revoke", key["id"])
        run.cluster.wait("the publisher to be cut", REVOKED_SECONDS, lambda: publisher.process.poll() is not None)
        run.report.step("Helm 3, production: from the revocation of a key to its publisher's end", time.monotonic() - began)
    finally:
        publisher.process.kill()
    if "revoked" in access.live_streams():
        raise Failure(f"a revoked key publishes {APPLICATION}/revoked")


def uninstall(run):
    """Its values say DeleteAll, so that nothing is retained; the CRDs stay, with Helm 3 as with Helm 4."""
    cluster = run.cluster
    cluster.helm("uninstall", RELEASE, "--wait", "--timeout", "180s", timeout=200)
    cluster.wait("the cluster resource to go", 180, lambda: not cluster.items("igc"))
    cluster.wait("every pod of it to go", 180, lambda: not run.pods())
    cluster.helm("uninstall", OPERATOR, "--wait", "--timeout", "120s", timeout=140)
    cluster.helm("uninstall", CRDS, "--wait", "--timeout", "120s", timeout=140)
    cluster.kubectl("get", "crd", "ingestclusters.headwater.dev")
    ours = ("Secret/headwater-redis", "Secret/headwater-postgres")
    cluster.wait("nothing to be left", 90, lambda: not set(scenarios.leftovers(run)) - set(ours))
