#!/usr/bin/env python3
"""From nothing to a stream and back to nothing, on a real Kubernetes on this machine; see tests/e2e/README.md.

Prints a table of what publishers and readers saw of every operation, and writes it to WORK/report.json and
WORK/report.md. Ends with an error when something did not work; a disturbance that an operation is known to cost is
reported and no error.
"""

import argparse
import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import scenarios
from audit import Audit
from cluster import REPOSITORY, Cluster, Failure, image, redis_image
from flows import Flows
from front_door import front_door
from media import STREAMS, Access, Witnesses
from production import production
from report import Report
from scenarios import INGEST, OPERATOR, RELEASE

NAMESPACE = "headwater"
REPOSITORY_NAME = "registry.local/headwater"
REDIS = "registry.local/redis"
VALUES = ("charts/headwater/values-quickstart.yaml", "tests/e2e/values.yaml")
# A pod that no policy allows to reach the port that edges and the operator ask.
FORBIDDEN = """
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: default}
spec:
  restartPolicy: Never
  containers:
    - name: probe
      image: registry.local/probe:1
      imagePullPolicy: IfNotPresent
      args: [get, "http://TARGET/"]
"""
# From `helm install` to a cluster that takes publishers.
READY_SECONDS = 240
# For an operation under live publishers to be over.
OPERATION_SECONDS = 300


class Run:
    """What the scenarios share."""

    def __init__(self, cluster, program):
        self.cluster, self.program, self.repository = cluster, program, REPOSITORY_NAME
        self.release, self.ingest, self.values = RELEASE, INGEST, VALUES
        self.report = Report(cluster.work)
        self.access = self.flows = None
        self.keys = {}
        self.failures = []

    def beside(self, cluster, release, ingest, values):
        """Another ingest cluster of the same run."""
        there = copy.copy(self)
        there.cluster, there.release, there.ingest, there.values = cluster, release, ingest, values
        return there

    def step(self, what, action):
        """Something that has to work, and how long it took."""
        print(f"e2e: {what}", flush=True)
        began = time.monotonic()
        result = action()
        self.report.step(what, time.monotonic() - began)
        self.judge_flows(what)
        return result

    def judge_flows(self, what):
        """Every connection meanwhile is one that the NetworkPolicies allow."""
        if self.flows:
            self.failures += [f"{what}: not allowed: {flow}" for flow in self.flows.refused()]

    def witnessed(self, what, action, judge):
        """An operation beside live publishers and readers, what these saw of it, and what a judge says to that."""
        print(f"e2e: {what}, with live publishers", flush=True)
        witnesses = Witnesses(self.access, self.keys)
        try:
            self.live()
            began = time.monotonic()
            action(self)
            seconds = time.monotonic() - began
            self.settled()
            self.live()
            seen = witnesses.stop()
        except BaseException:
            witnesses.kill()
            raise
        self.report.scenario(what, seconds, seen)
        self.judge_flows(what)
        faults = seen.lived() + judge(seen)
        if faults:
            self.failures.append(f"{what}: {'; '.join(faults)}")
        self.gone()

    def live(self):
        """All publishers are admitted."""
        self.cluster.wait("every publisher to be live", 90, lambda: self.access.live_streams() == set(STREAMS))

    def gone(self):
        """The next scenario begins with no session of this one."""
        self.cluster.wait("every session to end", 90, lambda: not self.access.live_streams())

    def ready(self):
        self.cluster.wait("IngestCluster to be Ready", READY_SECONDS, lambda: is_ready(self.cluster.get("igc", self.ingest)))

    def settled(self):
        """Ready, and every pod that was to go has gone."""
        self.ready()
        self.cluster.wait("pods to settle", OPERATION_SECONDS, lambda: all(map(is_running, self.pods())))

    def pods(self, component=None):
        label = f"headwater.dev/cluster={self.ingest}"
        if component:
            label += f",app.kubernetes.io/component={component}"
        return self.cluster.items("pods", f"--selector={label}")

    def install(self, *values):
        """The chart with values of its own, and what a cluster without a registry and a load balancer needs."""
        self.cluster.helm(
            *("upgrade", "--install", self.release, REPOSITORY / "charts/headwater"),
            *(word for file in self.values for word in ("--values", REPOSITORY / file)),
            *values,
            *("--wait", "--timeout", f"{READY_SECONDS}s"),
            timeout=READY_SECONDS + 30,
        )


def is_ready(igc):
    ready = next((c for c in igc.get("status", {}).get("conditions", []) if c["type"] == "Ready"), {})
    generation = igc["metadata"]["generation"]
    return ready.get("status") == "True" and ready.get("observedGeneration", generation) == generation


def is_running(pod):
    containers = pod.get("status", {}).get("containerStatuses", [])
    return "deletionTimestamp" not in pod["metadata"] and containers and all(c["ready"] for c in containers)


def bring_up(run, clusters_work):
    cluster = run.cluster
    run.step("a Kubernetes of two nodes", cluster.up)
    run.flows = Flows(cluster)
    # The same program; another time of making is another image, with another digest.
    for tag, moment in (("e2e", 1_700_000_000), ("e2e-changed", 1_700_000_001)):
        archive = clusters_work / f"{tag}.tar"
        run.step(f"the image {tag}", lambda: image(cluster, run.program, f"{REPOSITORY_NAME}:{tag}", archive, moment))
    rootfs = clusters_work / "redis"
    subprocess.run(["rm", "-rf", rootfs], check=True)
    run.step("an image of Redis", lambda: redis_image(cluster, f"{REDIS}:e2e", clusters_work / "redis.tar", rootfs))
    (cluster.work / "volume").mkdir(exist_ok=True)
    os.chown(cluster.work / "volume", 65532, 65532)
    manifest = (Path(__file__).with_name("namespace.yaml")).read_text()
    cluster.apply(manifest.replace("VOLUME_DIRECTORY", str(cluster.work / "volume")))


def install(run):
    cluster = run.cluster
    charts = REPOSITORY / "charts"
    run.step(
        "helm install headwater-operator",
        lambda: cluster.helm(
            *("install", OPERATOR, charts / OPERATOR, "--wait", "--timeout", "120s"),
            *("--set", f"image.repository={REPOSITORY_NAME},image.tag=e2e"),
        ),
    )
    began = time.monotonic()
    run.step("helm install headwater with the quick start's values", run.install)
    run.step("IngestCluster is Ready", run.ready)
    run.access = Access(cluster, INGEST, run.program)
    run.keys = run.step("stream keys over gRPC", lambda: {stream: run.access.create_key(stream) for stream in STREAMS})
    run.report.step("from helm install to a stream key", time.monotonic() - began)
    run.step("helm test", lambda: cluster.helm("test", RELEASE, "--timeout", "240s"))
    run.step("a forbidden connection is found", lambda: forbidden(run))


def forbidden(run):
    """The measure of the measure: what no policy allows works here, and is found."""
    run.judge_flows("before")
    target = f"{INGEST}-control-internal.{NAMESPACE}.svc:7445"
    run.cluster.inside("kubectl", "apply", "--filename=-", input=FORBIDDEN.replace("TARGET", target))
    found = run.cluster.wait("the forbidden connection to be found", 60, run.flows.refused)
    run.cluster.inside("kubectl", "delete", "pod", "stranger", "--namespace=default", "--grace-period=0", "--force")
    if not all(line.startswith("default/stranger -> headwater/ingest-headwater/control TCP/7445: ") for line in found):
        raise Failure(f"one forbidden connection was made, and this was found: {found}")


def everything_of(run, parts):
    """Every scenario with one of these parts in its name; all, unless there are any."""
    for what, scenario, judge in scenarios.LIVE:
        if not parts or any(part in what for part in parts):
            run.witnessed(what, scenario, judge)
    last = (
        ("front door: players, probe, client certificates", front_door),
        ("delete and create: the same keys", scenarios.recreate),
        ("audit: what the operator asked for", audited),
        ("uninstall leaves nothing", scenarios.uninstall),
        ("production's values by Helm 3", production),
    )
    for what, scenario in last:
        if not parts or any(part in what for part in parts):
            run.step(what, lambda scenario=scenario: scenario(run))


def audited(run):
    audit = Audit(run.cluster, OPERATOR)
    run.report.audit(audit)
    run.failures += [f"the operator was refused: {request}" for request in audit.refused()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory of the cluster (tests/kube/cluster)")
    parser.add_argument("--program", type=Path, required=True, help="the headwater program")
    parser.add_argument("--only", action="append", help="a part of a scenario's name; all, unless given")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up at the end")
    parser.add_argument("--reuse", action="store_true", help="go on with a cluster that was kept")
    arguments = parser.parse_args()
    images = arguments.work.resolve().parent / "e2e-images"
    images.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(arguments.work, NAMESPACE)
    run = Run(cluster, arguments.program.resolve())
    try:
        if arguments.reuse:
            run.flows = Flows(cluster)
            run.access = Access(cluster, INGEST, run.program)
            run.keys = {stream: run.access.create_key(stream) for stream in STREAMS}
        else:
            bring_up(run, images)
            install(run)
        everything_of(run, arguments.only)
    except (Failure, KeyboardInterrupt) as failure:
        run.failures.append(str(failure) or "interrupted")
        print(cluster.diagnose(), file=sys.stderr)
    finally:
        if run.flows:
            run.failures += run.flows.stop()
            run.report.flows = dict(sorted(run.flows.met.items()))
        run.report.write()
        if not arguments.keep:
            cluster.down()
    for failure in run.failures:
        print(f"e2e: FAILED: {failure}", file=sys.stderr)
    sys.exit(1 if run.failures else 0)


if __name__ == "__main__":
    main()
