"""Redis and PostgreSQL as production has them: outside of the cluster, with TLS and a user per role. Both are processes in
node1's network, behind Services without pods, which give them names."""

import hashlib
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from cluster import REPOSITORY

NAMESPACE = "stores"
REDIS, POSTGRES = f"redis.{NAMESPACE}", f"postgres.{NAMESPACE}"
PORTS = {"redis": 6379, "postgres": 5432}
ROLES = ("edge", "control", "origin")
USER = DATABASE = "headwater"
START_SECONDS = 60
SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NAMESPACE}
spec: {ports: [{port: PORT}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: NAME, namespace: NAMESPACE, labels: {kubernetes.io/service-name: NAME}}
addressType: IPv4
endpoints: [{addresses: [10.88.0.1]}]
ports: [{port: PORT}]
"""


class Stores:
    def __init__(self, cluster, key_prefix):
        self.cluster = cluster
        # PostgreSQL's own user has to get into it.
        self.directory = Path(tempfile.mkdtemp(prefix="headwater-stores-"))
        self.directory.chmod(0o755)
        self.passwords = {name: secrets.token_hex(16) for name in (*ROLES, "postgres")}
        self.processes = []
        self.certificate()
        self.redis(key_prefix)
        self.postgres()
        manifest = "".join(
            SERVICE.replace("NAMESPACE", NAMESPACE).replace("NAME", name).replace("PORT", str(port))
            for name, port in PORTS.items()
        )
        cluster.inside("kubectl", "create", "namespace", NAMESPACE)
        cluster.inside("kubectl", "apply", "--filename=-", input=manifest)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(30)
        shutil.rmtree(self.directory)

    def secret(self, name, **literals):
        """In the namespace of the ingest cluster, with the authority of these certificates."""
        authority = self.cluster.work / "pki/ca.crt"
        literals = [f"--from-literal={key.replace('_', '-')}={value}" for key, value in literals.items()]
        self.cluster.kubectl("create", "secret", "generic", name, *literals, f"--from-file=ca.crt={authority}")

    def certificate(self):
        authority = self.cluster.work / "pki"
        names = ",".join(f"DNS:{name}" for name in (REDIS, POSTGRES))
        self.cluster.run([
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-CA", authority / "ca.crt", "-CAkey", authority / "ca.key", "-days", "30", "-subj", "/CN=stores"),
            *("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", self.directory / "tls.key", "-out", self.directory / "tls.crt"),
        ])

    def redis(self, key_prefix):
        users = (REPOSITORY / "deploy/redis/users.acl").read_text().replace("~hw:", f"~{key_prefix}:")
        for role in ROLES:
            digest = hashlib.sha256(self.passwords[role].encode()).hexdigest()
            users = users.replace(f"{role.upper()}_PASSWORD_SHA256", digest)
        (self.directory / "users.acl").write_text(users)
        configuration = REPOSITORY / "deploy/redis/redis.conf"
        self.start("redis", "redis-server", configuration, "--bind", "0.0.0.0", "--dir", self.directory)
        self.secret("headwater-redis", **{f"{role}_password": self.passwords[role] for role in ROLES})

    def postgres(self):
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        data, key = self.directory / "postgres", self.directory / "postgres.key"
        password = self.directory / "postgres.password"
        password.write_text(self.passwords["postgres"])
        shutil.copy(self.directory / "tls.key", key)
        data.mkdir()
        for path in (data, key, password):
            shutil.chown(path, "postgres", "postgres")
            path.chmod(0o700 if path is data else 0o600)
        as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT", "--")
        self.cluster.run([
            *as_user, programs / "initdb", f"--pgdata={data}", f"--username={USER}", f"--pwfile={password}",
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"),
        ])
        (data / "pg_hba.conf").write_text(f"hostssl {DATABASE} {USER} all scram-sha-256\nlocal all all trust\n")
        settings = {
            "listen_addresses": "*", "port": PORTS["postgres"], "unix_socket_directories": data, "fsync": "off",
            "ssl": "on", "ssl_cert_file": self.directory / "tls.crt", "ssl_key_file": key,
        }
        options = (word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        self.start("postgres", *as_user, programs / "postgres", "-D", data, *options)
        client = (f"--host={data}", f"--username={USER}")
        self.cluster.wait(
            "PostgreSQL to answer",
            START_SECONDS,
            lambda: self.cluster.run([programs / "pg_isready", *client]),
        )
        self.cluster.run([programs / "createdb", *client, DATABASE])
        self.secret("headwater-postgres", password=self.passwords["postgres"])

    def start(self, name, *command):
        with (self.cluster.work / f"logs/{name}.log").open("w") as log:
            self.processes.append(subprocess.Popen(
                self.cluster.in_network("node1", *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.directory,
            ))
