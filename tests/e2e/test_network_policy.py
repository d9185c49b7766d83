"""A table of flows for the evaluator of NetworkPolicies; run by run.sh."""

import unittest

from network_policy import End, Policies

NAMESPACES = {"shop": {"team": "a"}, "data": {"team": "b"}}


def pod(namespace, name, ports=(), **labels):
    return End("10.244.0.9", {
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"ports": list(ports)}]},
    })


def policy(spec, namespace="shop"):
    return {"metadata": {"namespace": namespace, "name": "policy"}, "spec": spec}


WEB = pod("shop", "web", [{"name": "http", "containerPort": 8080}], app="web", tier="front")
JOB = pod("shop", "job", app="job")
STORE = pod("data", "store", app="store")
OUTSIDE, NEAR = End("198.51.100.9"), End("10.0.0.7")
WEB_ONLY = {"podSelector": {"matchLabels": {"app": "web"}}}


class Table(unittest.TestCase):
    def check(self, spec, *flows):
        policies = Policies([policy(spec)], NAMESPACES)
        for source, target, port, allowed in flows:
            protocol, number = ("UDP", -port) if port < 0 else ("TCP", port)
            with self.subTest(source=source, target=target, port=port):
                self.assertEqual(policies.refusal(source, target, protocol, number) is None, allowed)

    def test_without_a_policy_everything_is_allowed(self):
        self.assertIsNone(Policies([], NAMESPACES).refusal(OUTSIDE, WEB, "TCP", 1))

    def test_a_policy_denies_what_it_does_not_allow_to_whom_it_selects_and_in_its_directions(self):
        self.check(WEB_ONLY, (JOB, WEB, 80, False), (WEB, STORE, 80, True), (JOB, STORE, 80, True))
        self.check({**WEB_ONLY, "policyTypes": ["Egress"]}, (JOB, WEB, 80, True), (WEB, STORE, 80, False))
        self.check({}, (STORE, JOB, 80, False), (WEB, STORE, 80, True))
        rules = {"egress": [{"to": [{"podSelector": {}}]}]}
        self.check({**WEB_ONLY, **rules}, (WEB, JOB, 80, True), (WEB, STORE, 80, False), (JOB, WEB, 80, False))

    def test_an_empty_rule_is_everybody(self):
        self.check({**WEB_ONLY, "ingress": [{}]}, (OUTSIDE, WEB, 80, True), (STORE, WEB, -53, True))
        self.check({**WEB_ONLY, "ingress": []}, (OUTSIDE, WEB, 80, False))

    def test_peers(self):
        def taking(peer):
            return {**WEB_ONLY, "ingress": [{"from": [peer]}]}

        self.check(taking({"podSelector": {"matchLabels": {"app": "job"}}}), (JOB, WEB, 1, True), (STORE, WEB, 1, False))
        self.check(taking({"podSelector": {}}), (JOB, WEB, 1, True), (STORE, WEB, 1, False), (OUTSIDE, WEB, 1, False))
        self.check(taking({"namespaceSelector": {}}), (JOB, WEB, 1, True), (STORE, WEB, 1, True), (NEAR, WEB, 1, False))
        b = {"namespaceSelector": {"matchLabels": {"team": "b"}}}
        self.check(taking(b), (STORE, WEB, 1, True), (JOB, WEB, 1, False))
        both = {**b, "podSelector": {"matchLabels": {"app": "other"}}}
        self.check(taking(both), (STORE, WEB, 1, False))
        block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
        self.check(
            taking(block),
            (NEAR, WEB, 1, True), (End("10.1.2.3"), WEB, 1, False), (OUTSIDE, WEB, 1, False), (JOB, WEB, 1, False),
        )

    def test_expressions(self):
        def front(*expression):
            key, operator, *values = expression
            return {"podSelector": {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}}

        for selector, selected in (
            (front("tier", "In", "front", "back"), True), (front("tier", "In", "back"), False),
            (front("tier", "NotIn", "back"), True), (front("tier", "NotIn", "front"), False),
            (front("none", "NotIn", "front"), True), (front("tier", "Exists"), True), (front("none", "Exists"), False),
            (front("none", "DoesNotExist"), True), (front("tier", "DoesNotExist"), False),
        ):
            self.check(selector, (JOB, WEB, 80, not selected))
        with self.assertRaises(ValueError):
            Policies([policy(front("tier", "Near"))], NAMESPACES).refusal(JOB, WEB, "TCP", 80)

    def test_ports(self):
        def on(**port):
            return {**WEB_ONLY, "ingress": [{"ports": [port]}]}

        self.check(on(port=80), (JOB, WEB, 80, True), (JOB, WEB, 81, False), (JOB, WEB, -80, False))
        self.check(on(port=53, protocol="UDP"), (JOB, WEB, -53, True), (JOB, WEB, 53, False))
        self.check(on(protocol="UDP"), (JOB, WEB, -9, True), (JOB, WEB, 9, False))
        self.check(on(port=80, endPort=90), (JOB, WEB, 90, True), (JOB, WEB, 91, False), (JOB, WEB, 79, False))
        self.check(on(port="http"), (JOB, WEB, 8080, True), (JOB, WEB, 80, False))
        sending = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]}
        self.check(sending, (JOB, WEB, 8080, True), (JOB, OUTSIDE, 8080, False))

    def test_the_refusal_names_the_end_that_refuses(self):
        policies = Policies([policy(WEB_ONLY)], NAMESPACES)
        self.assertEqual(policies.refusal(OUTSIDE, WEB, "TCP", 1), "no policy allows shop/web to take it")


if __name__ == "__main__":
    unittest.main()
