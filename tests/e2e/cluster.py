"""A cluster of tests/kube/cluster from here: its commands, its waits, and what it says when one of them is in vain."""

import json
import os
import subprocess
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "tests/kube/cluster"
# Of one command; waits have deadlines of their own.
COMMAND_SECONDS = 300
LOOK_AGAIN_SECONDS = 0.25
# Lines of each log that a failure shows.
TAIL_LINES = 25


class Failure(Exception):
    """What a test says when something is not as it must be."""


class Cluster:
    def __init__(self, work, namespace, helm="helm"):
        self.work = Path(work).resolve()
        self.helm_program = helm
        self.namespace = namespace

    def up(self):
        self.script("up.sh")
        self.script("add-node.sh", "node2")

    def down(self):
        self.script("down.sh")

    def script(self, name, *arguments):
        self.run([SCRIPTS / name, self.work, *arguments])

    def inside(self, *command, **options):
        """Runs a command as the administrator of node1, and gives back what it prints."""
        return self.run([SCRIPTS / "exec.sh", self.work, *command], **options)

    def kubectl(self, *arguments, **options):
        return self.inside("kubectl", "--namespace", self.namespace, *arguments, **options)

    def helm(self, *arguments, **options):
        return self.inside(self.helm_program, "--namespace", self.namespace, *arguments, **options)

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def items(self, *arguments):
        return self.get(*arguments)["items"]

    def apply(self, manifest):
        self.kubectl("apply", "--server-side", "--filename=-", input=manifest)

    def secret(self, name, key):
        import base64

        return base64.b64decode(self.get("secret", name)["data"][key])

    def run(self, command, input=None, timeout=COMMAND_SECONDS, env=None):
        command = [str(word) for word in command]
        shown = " ".join(command[2:] if command[0].endswith("exec.sh") else command)
        try:
            done = subprocess.run(
                command, input=input, timeout=timeout, text=True, capture_output=True, cwd=REPOSITORY, env=env
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"{shown}: not done after {timeout} s") from None
        if done.returncode:
            raise Failure(f"{shown}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait(self, what, seconds, condition):
        """Looks until the condition gives something, and gives that back."""
        deadline = time.monotonic() + seconds
        last = None
        while True:
            try:
                found = condition()
                if found:
                    return found
            except Failure as failure:
                last = failure
            if time.monotonic() > deadline:
                raise Failure(f"waited {seconds} s in vain: {what}" + (f" ({last})" if last else ""))
            time.sleep(LOOK_AGAIN_SECONDS)

    def nodes(self):
        return sorted(node.name for node in (self.work / "run").iterdir())

    def in_network(self, node, *command):
        """A command of this machine in a node's network, which is signalled like any child."""
        process, _ = (self.work / "run" / node).read_text().split()
        # Each of these becomes the next: the child's number is the command's own, and it ends with this program.
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("nsenter", f"--target={process}", "--net", "--"),
            *map(str, command),
        ]

    def client(self, *command):
        """In node1's network, with the cluster's names."""
        resolver = self.work / "client-resolv.conf"
        # Once: who looks a name up while the file is written anew finds it empty, and asks nobody.
        if not resolver.exists():
            resolver.write_text("nameserver 10.96.0.10\nsearch svc.cluster.local cluster.local\noptions ndots:5\n")
        names = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return self.in_network("node1", "unshare", "--mount", "--", "sh", "-c", names, resolver, *command)

    def diagnose(self):
        """What somebody would look at first."""
        shown = []
        for command in (
            ("get", "nodes,pv", "--output=wide"),
            ("get", "igc,iapp,deployments,statefulsets,pods,services,pvc,pdb", "--output=wide"),
            ("describe", "igc"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            shown.append(self.try_kubectl(*command))
        for name in self.try_kubectl("get", "pods", "--output=name").split():
            if name.startswith("pod/"):
                shown.append(self.try_kubectl("logs", name, "--all-containers", f"--tail={TAIL_LINES}"))
                shown.append(self.try_kubectl("logs", name, "--previous", f"--tail={TAIL_LINES}"))
        return "\n".join(shown)

    def try_kubectl(self, *arguments):
        title = f"--- kubectl {' '.join(arguments)}\n"
        try:
            return title + self.kubectl(*arguments, timeout=30)
        except Failure as failure:
            return title + str(failure)


def image(cluster, program, name, archive, moment):
    """Headwater's image of that name, made at that moment; the nodes have it."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(moment)}
    cluster.run([REPOSITORY / "deploy/image/make.sh", program, archive, name], env=environment)
    cluster.script("import.sh", archive)


def redis_image(cluster, name, archive, rootfs):
    """Debian's Redis, where the quick start wants Valkey."""
    build = REPOSITORY / "deploy/image"
    cluster.run([build / "rootfs.sh", "/usr/bin/redis-server", rootfs])
    dockerfile = REPOSITORY / "tests/kube/images/redis.Dockerfile"
    cluster.run([build / "build.py", f"--file={dockerfile}", f"--name={name}", rootfs, archive])
    cluster.script("import.sh", archive)
