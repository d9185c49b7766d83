"""Every connection of the cluster's pods, held against the NetworkPolicies that the cluster has.

Nothing enforces these here, so what they would not allow works, and would break where they are enforced. A recorder in
each node's network sees what begins there (flow_recorder.py); here, addresses become pods, and NetworkPolicies judge.
"""

import datetime
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from cluster import Failure
from network_policy import End, Policies, containers

PODS, SERVICES, NODES = (
    ipaddress.ip_network(network) for network in ("10.244.0.0/16", "10.96.0.0/16", "10.88.0.0/24")
)
NODE_PORTS = range(30000, 32768)
# For the API to say which pod has an address.
KNOWN_SECONDS = 20
# Of a connection beside the clock of the API, which counts whole seconds.
CLOCK_SECONDS = 1.5


class Follower:
    """A child that writes lines or documents of JSON into a file, which is read on and on."""

    def __init__(self, path, process):
        self.path, self.process = path, process
        self.file = path.open()
        self.rest = ""

    def values(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.path.name} ended: {self.path.with_suffix('.log').read_text()[-2000:]}")
        return self.read()

    def read(self):
        self.rest += self.file.read()
        while True:
            text = self.rest.lstrip()
            try:
                value, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                return
            self.rest = text[end:]
            yield value


class Flows:
    """Records from now on; `refused` judges what came since it was asked last."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.directory = cluster.work / "flows"
        self.directory.mkdir(exist_ok=True)
        self.pods = {}
        self.queue = []
        # Addresses and ports that UDP was sent to.
        self.asked = set()
        self.met = Counter()
        self.known_policies = {}
        recorder = (sys.executable, Path(__file__).with_name("flow_recorder.py"))
        self.recorders = [
            self.follow(node, cluster.in_network(node, *recorder, self.directory / f"{node}.json"))
            for node in cluster.nodes()
        ]
        watch = ("get", "pods", "--all-namespaces", "--watch", "--output-watch-events", "--output=json")
        kubectl = (cluster.work / "bin/kubectl", f"--kubeconfig={cluster.work / 'admin.kubeconfig'}")
        self.watch = self.follow("pods", cluster.in_network("node1", *kubectl, *watch), printed=True)

    def follow(self, name, command, printed=False):
        """What the command writes: itself, or by what it prints."""
        path = self.directory / f"{name}.json"
        path.unlink(missing_ok=True)
        with (path if printed else Path(os.devnull)).open("w") as out, path.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        self.cluster.wait(f"{path} to be there", 30, path.exists)
        return Follower(path, process)

    def stop(self):
        """Ends the recorders, which say whether they missed anything."""
        self.watch.process.terminate()
        faults = []
        for recorder in self.recorders:
            recorder.process.terminate()
            recorder.process.wait(30)
            *_, last = recorder.read()
            if last != {"missed": 0}:
                faults.append(f"{recorder.path.name}: not every connection was seen: {last}")
        return faults

    def refused(self):
        """A line for each connection since the last call that no policy allows."""
        policies = self.policies()
        self.take_pods()
        for recorder in self.recorders:
            self.queue += recorder.values()
        self.queue.sort()
        flows = list(self.between_ends())
        self.queue.clear()
        deadline = time.monotonic() + KNOWN_SECONDS
        while any(self.unknown(flow) for flow in flows) and time.monotonic() < deadline:
            time.sleep(0.25)
            self.take_pods()
        return sorted({line for line in (self.judge(policies, flow) for flow in flows) if line})

    def policies(self):
        """What the cluster holds, and what it held when it was asked last: pods outlive their policies."""
        items = self.cluster.items("networkpolicies", "--all-namespaces")
        now = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in items}
        held = {**self.known_policies, **now}
        self.known_policies = now
        namespaces = self.cluster.items("namespaces")
        labels = {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in namespaces}
        return Policies(held.values(), labels)

    def take_pods(self):
        for event in self.watch.values():
            pod = event["object"]
            address = pod.get("status", {}).get("podIP")
            if address:
                self.pods.setdefault(address, {})[pod["metadata"]["uid"]] = pod

    def between_ends(self):
        """Each once, as its ends see it: not the Services' addresses that stood in its place before, and no answer."""
        seen = set()
        for moment, *flow in self.queue:
            protocol, source, source_port, target, target_port = flow
            ends = [ipaddress.ip_address(source), ipaddress.ip_address(target)]
            is_node_port = ends[1] in NODES and target_port in NODE_PORTS
            # From where something was sent to before: an answer, on its way back through other addresses maybe.
            is_answer = protocol == "UDP" and (source, source_port) in self.asked
            if tuple(flow) in seen or is_answer or any(end in SERVICES for end in ends):
                continue
            seen.add(tuple(flow))
            if protocol == "UDP":
                self.asked.add((target, target_port))
            if any(end in PODS for end in ends) and not is_node_port:
                yield moment, protocol, source, target, target_port

    def unknown(self, flow):
        moment, _, source, target, _ = flow
        return any(
            ipaddress.ip_address(address) in PODS and not is_gateway(address) and not self.pod(address, moment)
            for address in (source, target)
        )

    def judge(self, policies, flow):
        moment, protocol, *addresses, port = flow
        source, target = (End(address, self.pod(address, moment)) for address in addresses)
        shown = f"{title(source)} -> {title(target)} {protocol}/{port}"
        if self.unknown(flow):
            return f"{shown}: the API knows no such pod"
        if is_probe(source, target, port):
            self.met[f"kubelet -> {title(target)} {protocol}/{port}"] += 1
            return None
        refusal = policies.refusal(source, target, protocol, port)
        if refusal:
            return f"{shown}: {refusal}"
        self.met[shown] += 1
        return None

    def pod(self, address, moment):
        """Who had the address then: the last one that was made before."""
        candidates = [pod for pod in self.pods.get(address, {}).values() if made(pod) <= moment + CLOCK_SECONDS]
        return max(candidates, key=made, default=None)


def made(pod):
    return datetime.datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()


def is_gateway(address):
    """A node's address in the network of its pods."""
    return ipaddress.ip_address(address) in PODS and address.endswith(".1")


def is_probe(source, target, port):
    """The kubelet of a pod's own node: no policy keeps it away."""
    if source.pod or not target.pod:
        return False
    gateway = target.address.rsplit(".", 1)[0] + ".1"
    if source.address not in (gateway, target.pod["status"].get("hostIP")):
        return False
    return port in set(probe_ports(target.pod))


def probe_ports(pod):
    for container in containers(pod):
        names = {port.get("name"): port["containerPort"] for port in container.get("ports") or ()}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            for way in ("httpGet", "tcpSocket", "grpc"):
                wanted = container.get(kind, {}).get(way, {}).get("port")
                yield names.get(wanted, wanted)


def title(end):
    if end.pod is None:
        is_node = is_gateway(end.address) or ipaddress.ip_address(end.address) in NODES
        return "a node" if is_node else "outside"
    metadata = end.pod["metadata"]
    labels = metadata.get("labels") or {}
    named = ("headwater.dev/cluster", "app.kubernetes.io/instance"), ("app.kubernetes.io/component", "k8s-app")
    parts = [labels[key] for key in (next(filter(labels.get, keys), None) for keys in named) if key]
    return "/".join([metadata["namespace"], *(parts or [metadata["name"]])])
