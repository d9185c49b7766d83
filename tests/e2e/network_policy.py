"""NetworkPolicies, evaluated as Kubernetes defines them, and strictly where network plugins differ: a block of addresses
means no pod."""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class End:
    """One end of a connection: an address, and the pod that has it, as the API tells it; None is outside."""

    address: str
    pod: dict | None = None


class Policies:
    """The policies that hold, and the labels of namespaces by their names."""

    def __init__(self, policies, namespaces):
        self.policies, self.namespaces = policies, namespaces

    def refusal(self, source, target, protocol, port):
        """Why the connection is not allowed, or nothing: both ends have to allow it."""
        asked = (target, protocol, port)
        if not self.allows("Egress", source, target, *asked):
            return f"no policy allows {name(source)} to send it"
        if not self.allows("Ingress", target, source, *asked):
            return f"no policy allows {name(target)} to take it"
        return None

    def allows(self, direction, end, other, target, protocol, port):
        """Whether the policies of one end let it talk to the other."""
        selected = [policy for policy in self.policies if selects(policy, end, direction)]
        return not selected or any(
            self.has_peer(policy, rule.get("from" if direction == "Ingress" else "to"), other)
            and has_port(rule.get("ports"), target, protocol, port)
            for policy in selected
            for rule in policy["spec"].get(direction.lower()) or ()
        )

    def has_peer(self, policy, peers, end):
        """No list is everybody."""
        return not peers or any(self.is_peer(policy, peer, end) for peer in peers)

    def is_peer(self, policy, peer, end):
        block = peer.get("ipBlock")
        if block:
            return end.pod is None and contains(block["cidr"], end) and not any(
                contains(part, end) for part in block.get("except") or ()
            )
        if end.pod is None:
            return False
        namespace = end.pod["metadata"]["namespace"]
        if "namespaceSelector" in peer:
            of_namespace = matches(peer["namespaceSelector"], self.namespaces.get(namespace, {}))
        else:
            of_namespace = namespace == policy["metadata"]["namespace"]
        return of_namespace and matches(peer.get("podSelector") or {}, labels(end.pod))


def selects(policy, end, direction):
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return (
        direction in types
        and end.pod is not None
        and policy["metadata"]["namespace"] == end.pod["metadata"]["namespace"]
        and matches(spec.get("podSelector") or {}, labels(end.pod))
    )


def matches(selector, present):
    wanted = selector.get("matchLabels") or {}
    return all(present.get(key) == value for key, value in wanted.items()) and all(
        matches_expression(expression, present) for expression in selector.get("matchExpressions") or ()
    )


def matches_expression(expression, present):
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return present.get(key) in values
        case "NotIn":
            return present.get(key) not in values
        case "Exists":
            return key in present
        case "DoesNotExist":
            return key not in present
    raise ValueError(f"an operator of selectors that is not known here: {expression}")


def has_port(ports, target, protocol, number):
    """No list is every port, and so is an entry without one; a name is the target's."""
    return not ports or any(
        port.get("protocol", "TCP") == protocol and is_number(port, target, protocol, number) for port in ports
    )


def is_number(port, target, protocol, number):
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return number in named_ports(target.pod, protocol, wanted)
    return wanted <= number <= port.get("endPort", wanted)


def named_ports(pod, protocol, wanted):
    return [
        port["containerPort"]
        for container in containers(pod)
        for port in container.get("ports") or ()
        if port.get("name") == wanted and port.get("protocol", "TCP") == protocol
    ]


def containers(pod):
    spec = pod["spec"] if pod else {}
    return [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]


def labels(pod):
    return pod["metadata"].get("labels") or {}


def contains(cidr, end):
    return ipaddress.ip_address(end.address) in ipaddress.ip_network(cidr)


def name(end):
    return f"{end.pod['metadata']['namespace']}/{end.pod['metadata']['name']}" if end.pod else end.address
