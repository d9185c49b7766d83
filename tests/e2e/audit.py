"""What the API server wrote down about the operator: everything that it asked for is granted, and the other way round."""

import json


class Audit:
    def __init__(self, cluster, account):
        self.path = cluster.work / "logs/audit.log"
        self.cluster = cluster
        self.user = f"system:serviceaccount:{cluster.namespace}:{account}"
        self.account = account

    def requests(self):
        for line in self.path.open():
            event = json.loads(line)
            if event["user"]["username"] == self.user and "objectRef" in event:
                yield event

    def refused(self):
        """Requests that its roles do not grant."""
        return sorted({
            f"{event['verb']} {resource_of(event)}"
            for event in self.requests()
            if event.get("responseStatus", {}).get("code") in (401, 403)
        })

    def unused(self):
        """Granted, and never asked for: `group/resource verb`."""
        used = {(resource_of(event), verb) for event in self.requests() for verb in verbs(event)}
        return sorted(f"{verb} {resource}" for resource, verb in self.granted() - used)

    def granted(self):
        grants = set()
        for kind in ("rolebindings", "clusterrolebindings"):
            for binding in self.cluster.items(kind):
                if any(self.is_account(subject) for subject in binding.get("subjects") or ()):
                    reference = binding["roleRef"]
                    grants.update(pairs(self.cluster.get(reference["kind"].lower(), reference["name"])))
        return grants

    def is_account(self, subject):
        return (
            subject["kind"] == "ServiceAccount"
            and subject["name"] == self.account
            and subject.get("namespace", self.cluster.namespace) == self.cluster.namespace
        )


def verbs(event):
    """A server-side apply that makes an object needs the right to create it, too."""
    yield event["verb"]
    if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
        yield "create"


def resource_of(event):
    reference = event["objectRef"]
    name = reference.get("resource", "")
    if reference.get("subresource"):
        name += f"/{reference['subresource']}"
    return f"{name}.{reference['apiGroup']}" if reference.get("apiGroup") else name


def pairs(role):
    for rule in role.get("rules") or ():
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for verb in rule["verbs"]:
                    yield (f"{resource}.{group}" if group else resource), verb
