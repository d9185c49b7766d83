"""Live publishers and readers, and what they saw while something happened beside them.

Publishers of `headwater bench` stamp every frame, and `bench subscribe` accounts for each: half of them follow a request to
connect elsewhere, the others connect again two seconds after they were disconnected, as OBS does. So does ffmpeg, which
publishes a file in real time, and a player follows it over HTTP-FLV.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster import REPOSITORY, Failure

APPLICATION = "live"
# The groups of publishers, and what tells `bench publish` to be such.
GROUPS = {"legacy": "--reconnect", "capable": "--follow-requests"}
PUBLISHERS = {"legacy": 9, "capable": 10}
STREAMS = ("camera", *(f"{group}-{number}" for group, count in PUBLISHERS.items() for number in range(count)))
# Encoders wait this long before they connect again.
RECONNECT_SECONDS = 2
# Publishers go on for so long after an operation.
AFTERMATH_SECONDS = 15
# For a process that was asked to end.
END_SECONDS = 30
# How long media may pause for a reader: while its publisher is not cut, and where it is and connects again. A busy machine
# gets PATIENCE times that.
PAUSE_GOAL_MS = 1_000
RECONNECT_PAUSE_GOAL_MS = 3_000
PATIENCE = 5
PAUSE_MS_LIMIT = PATIENCE * PAUSE_GOAL_MS
RECONNECT_PAUSE_MS_LIMIT = PATIENCE * RECONNECT_PAUSE_GOAL_MS
# Its encoder is legacy.
PLAYER_SILENCE_MS_MAX = RECONNECT_PAUSE_MS_LIMIT
# What no operation may do to any publisher's frames. A reader that heard a stream end too early lost what came after. An
# announced gap is a loss as well: no reader is so slow, and no origin is away for so long.
NOTHING_LOST = (
    *("frames_lost", "frames_skipped", "frames_duplicated", "frames_reordered", "frames_corrupted"),
    *("timestamp_regressions", "token_regressions", "session_regressions"),
    *("readers_without_a_frame", "readers_given_up"),
)


class Access:
    """How clients reach one ingest cluster: addresses, tokens and certificates, as its Secrets have them."""

    def __init__(self, cluster, name, program):
        self.cluster, self.name, self.program = cluster, name, program
        self.directory = cluster.work / "clients"
        self.directory.mkdir(exist_ok=True)
        self.refresh()

    def refresh(self):
        for file, secret, key in (
            ("api-token", f"{self.name}-api-token", "token"),
            ("api-ca.crt", f"{self.name}-control-tls", "ca.crt"),
            ("playback-token", f"{self.name}-playback-token", "token"),
            ("playback-ca.crt", f"{self.name}-origin-tls", "ca.crt"),
            ("edge.crt", f"{self.name}-edge-tls", "tls.crt"),
        ):
            self.file(file).write_bytes(self.cluster.secret(secret, key))

    def file(self, name):
        return self.directory / name

    def host(self, service):
        return f"{service}.{self.cluster.namespace}.svc"

    def origins(self, port):
        count = self.cluster.get("igc", self.name)["spec"]["origin"]["replicas"]
        service = f"{self.name}-origin"
        return [f"{service}-{number}.{self.host(service)}:{port}" for number in range(count)]

    def playback(self):
        return [f"https://{origin}" for origin in self.origins(7446)]

    def edge_service(self):
        """By the name in its certificate."""
        return f"rtmps://{self.host(self.name + '-edge')}:443/{APPLICATION}"

    def edge_node(self):
        """By a node's address and the Service's node port, as a load balancer would."""
        ports = self.cluster.get("service", f"{self.name}-edge")["spec"]["ports"]
        return f"rtmps://10.88.0.1:{ports[0]['nodePort']}/{APPLICATION}"

    def create_key(self, stream):
        return find_secret(self.api("keys", "create", "--app", APPLICATION, "--stream", stream))

    def live_streams(self):
        sessions = self.api("sessions", "list")
        return {session["stream"] for session in sessions}

    def api(self, *command):
        """Over gRPC, with the token that the operator made."""
        command = self.cluster.client(
            *(self.program, *command, "--json", "--server", f"https://{self.host(self.name + '-control')}:7443"),
            *("--token-file", self.file("api-token"), "--ca-file", self.file("api-ca.crt")),
        )
        return json.loads(self.cluster.run(command, timeout=60))


def find_secret(value):
    """The one `hw_…` in the answer."""
    if isinstance(value, str):
        return value if value.startswith("hw_") else None
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return next(filter(None, map(find_secret, values)), None)


class Child:
    """A client whose output is kept in files."""

    def __init__(self, access, name, command):
        self.name = name
        self.output = access.file(f"{name}.out")
        self.log = access.file(f"{name}.log")
        with self.output.open("w") as out, self.log.open("w") as log:
            self.process = subprocess.Popen(
                access.cluster.client(*command), stdin=subprocess.DEVNULL, stdout=out, stderr=log
            )

    def end(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"{self.name} does not end: {self.log.read_text()[-2000:]}") from None


class Camera(threading.Thread):
    """ffmpeg, again and again until it is told to stop."""

    def __init__(self, access, stream_key):
        super().__init__(daemon=True)
        self.access, self.stream_key = access, stream_key
        self.disconnects = []
        self.stopping = threading.Event()
        self.child = None
        self.start()

    def run(self):
        while not self.stopping.is_set():
            # Asked for each time: a Service that was made anew has another port.
            try:
                url = f"{self.access.edge_node()}/{self.stream_key}"
            except Failure as failure:
                self.disconnects.append(str(failure).splitlines()[0])
                self.stopping.wait(RECONNECT_SECONDS)
                continue
            command = (
                *("ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin"),
                *("-re", "-stream_loop", "-1", "-i", REPOSITORY / "tests/fixtures/source.flv"),
                *("-c", "copy", "-f", "flv", url),
            )
            self.child = Child(self.access, "ffmpeg", command)
            self.child.process.wait()
            if not self.stopping.is_set():
                said = self.child.log.read_text().strip().splitlines()
                self.disconnects.append(said[-1].replace(self.stream_key, "KEY") if said else "no word")
                self.stopping.wait(RECONNECT_SECONDS)

    def stop(self):
        self.stopping.set()
        if self.child and self.child.process.poll() is None:
            self.child.end()
        self.join(END_SECONDS)


class Witnesses:
    """Everything of the above, from the first media to the report."""

    def __init__(self, access, keys):
        self.access = access
        access.refresh()
        self.began = time.monotonic()
        self.children = {
            "flv": Child(access, "flv", (
                *(sys.executable, Path(__file__).with_name("flv_reader.py")),
                *("--token-file", access.file("playback-token"), "--path", f"/live/{APPLICATION}/camera.flv"),
                *access.origins(8080),
            )),
        }
        self.reports = {}
        for group in GROUPS:
            self.bench(group, [stream for stream in keys if stream.startswith(group)], keys)
        self.camera = Camera(access, keys["camera"])

    def bench(self, group, streams, keys):
        """Publishers of one kind, and their readers."""
        access = self.access
        keys_file, streams_file = access.file(f"{group}-keys"), access.file(f"{group}-streams")
        keys_file.write_text("".join(f"{keys[stream]}\n" for stream in streams))
        streams_file.write_text("".join(f"{stream}\n" for stream in streams))
        publish, subscribe = f"{group}-publish", f"{group}-subscribe"
        for name in (publish, subscribe):
            self.reports[name] = access.file(f"{name}.json")
            self.reports[name].unlink(missing_ok=True)
        first, *others = access.playback()
        self.children[subscribe] = Child(access, subscribe, (
            *(access.program, "bench", "subscribe", first, "--app", APPLICATION),
            *(word for other in others for word in ("--follow-endpoints", other)),
            *("--streams-file", streams_file, "--token-file", access.file("playback-token")),
            *("--ca-file", access.file("playback-ca.crt"), "--give-up", "120"),
            *("--report-file", self.reports[subscribe]),
        ))
        self.children[publish] = Child(access, publish, (
            *(access.program, "bench", "publish", access.edge_service(), GROUPS[group]),
            *("--keys-file", keys_file, "--ca-file", access.file("edge.crt"), "--ramp", "2"),
            *("--bitrate", "250k", "--fps", "25", "--report-file", self.reports[publish]),
        ))

    def stop(self):
        """What they saw. The player ends first, while there is something to see; the account after its publishers, so
        that nothing is under way."""
        # No condition: a reader whose origin went may ask one for ten seconds that does not have the stream.
        time.sleep(AFTERMATH_SECONDS)
        seconds = time.monotonic() - self.began
        self.children["flv"].end()
        self.camera.stop()
        ended = time.time()
        for group in GROUPS:
            self.children[f"{group}-publish"].end()
        for group in GROUPS:
            # It ends with the streams, when it has read what is under way.
            try:
                self.children[f"{group}-subscribe"].process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.children[f"{group}-subscribe"].end()
        reports = {name: json.loads(report.read_text()) for name, report in self.reports.items()}
        flv = json.loads(self.children["flv"].output.read_text())
        return Seen(seconds, reports, ended, flv, self.camera.disconnects)

    def kill(self):
        """Ends everything, and says why publishers were cut, as far as they had time to say it."""
        self.camera.stopping.set()
        reasons = set(self.camera.disconnects)
        for group in GROUPS:
            try:
                self.children[f"{group}-publish"].end()
            except Failure as failure:
                reasons.add(str(failure))
            report = self.reports[f"{group}-publish"]
            published = json.loads(report.read_text())["disconnects"] if report.exists() else []
            reasons.update(disconnect["reason"] for disconnect in published)
        for child in (*self.children.values(), self.camera.child):
            if child and child.process.poll() is None:
                child.process.kill()
        print(f"e2e: publishers were told: {sorted(reasons)}", flush=True)


class Seen:
    """The figures of one scenario."""

    def __init__(self, seconds, reports, ended, flv, ffmpeg_disconnects):
        self.figures = {
            "seconds": round(seconds, 1),
            **{group: account(reports[f"{group}-publish"], reports[f"{group}-subscribe"], ended) for group in GROUPS},
            "ffmpeg_disconnects": len(ffmpeg_disconnects),
            "ffmpeg_reasons": sorted(set(ffmpeg_disconnects)),
            "player_longest_silence_ms": flv["longest_silence_ms"],
            "player_longest_timestamp_jump_ms": flv["longest_timestamp_jump_ms"],
            "player_connections": flv["connections"],
            "player_tags": flv["tags"],
        }

    def nonzero(self, groups, names):
        return [f"{group}: {name} is {self.figures[group][name]}" for group in groups for name in names if self.figures[group][name]]

    def cut(self):
        """Why a publisher noticed, or nothing."""
        faults = self.nonzero(GROUPS, ("disconnects", "frames_lost_between_sessions"))
        if self.figures["ffmpeg_disconnects"]:
            faults.append(f"ffmpeg was disconnected: {self.figures['ffmpeg_reasons']}")
        return faults

    def paused(self, group, goal, limit):
        """For how long media paused, where it was too long."""
        longest = self.figures[group]["pause_max_ms"]
        return [f"{group}: media paused for {longest} ms (goal {goal} ms)"] if longest >= limit else []

    def unnoticed(self):
        """Why anybody noticed, or nothing."""
        return self.cut() + self.paused("legacy", PAUSE_GOAL_MS, PAUSE_MS_LIMIT)

    def reconnected(self):
        """Why those who were cut were away for too long, as their readers see it, or nothing."""
        return self.paused("legacy", RECONNECT_PAUSE_GOAL_MS, RECONNECT_PAUSE_MS_LIMIT)

    def lived(self):
        """Why it was not what every operation owes to everybody, or nothing."""
        # Nothing is lost, and who follows a request to connect elsewhere is never cut.
        faults = self.nonzero(GROUPS, NOTHING_LOST)
        faults += self.nonzero(("capable",), ("disconnects", "frames_lost_between_sessions"))
        faults += self.paused("capable", PAUSE_GOAL_MS, PAUSE_MS_LIMIT)
        if self.figures["player_tags"] == 0:
            faults.append("the player got nothing")
        if self.figures["player_longest_silence_ms"] > PLAYER_SILENCE_MS_MAX:
            faults.append(f"the player was silent for {self.figures['player_longest_silence_ms']} ms")
        return faults


def account(publish, subscribe, ended):
    """Of one group of publishers and their readers, until the publishers are told to end."""
    ledger = subscribe["total"]
    paused = pauses(subscribe, ended)
    return {
        "publishers": publish["publishers"],
        "disconnects": len(publish["disconnects"]),
        "reasons": sorted({disconnect["reason"] for disconnect in publish["disconnects"]}),
        "longest_send_stall_ms": round(publish["longest_stall_ms"]),
        "frames": ledger["received"],
        "frames_lost": ledger["lost"] + unread(publish, subscribe),
        "frames_lost_between_sessions": ledger["lost_between_sessions"],
        "frames_skipped": ledger["skipped"],
        "frames_duplicated": ledger["duplicated"],
        "frames_reordered": ledger["reordered"],
        "frames_corrupted": ledger["corrupted"],
        "timestamp_regressions": ledger["timestamp_regressions"],
        "token_regressions": ledger["token_regressions"],
        "session_regressions": ledger["session_regressions"],
        "latency_p50_ms": round(ledger["latency_ms"]["p50"]),
        "latency_max_ms": round(ledger["latency_ms"]["max"]),
        "pauses": len(paused),
        "pause_p99_ms": percentile(paused, 99) if len(paused) > 1 else None,
        "pause_max_ms": percentile(paused, 100),
        "reader_resumes": sum(len(stream["resumes"]) for stream in subscribe["streams"]),
        "readers_without_a_frame": sum(stream["ledger"]["received"] == 0 for stream in subscribe["streams"]),
        "readers_given_up": sum(stream["ended"] == "gave_up" for stream in subscribe["streams"]),
    }


def pauses(subscribe, ended):
    """Milliseconds between two frames of a stream, where they are more than 100: the longest hundred of each stream."""
    return [
        round(1000 * pause["seconds"])
        for stream in subscribe["streams"]
        for pause in stream["pauses"]
        # The end is none.
        if subscribe["began"] + pause["after_seconds"] - pause["seconds"] < ended
    ]


def percentile(values, percent):
    """The smallest that so many of a hundred are not above; 0 of none."""
    rank = -(-len(values) * percent // 100)
    return sorted(values)[rank - 1] if values else 0


def unread(publish, subscribe):
    """Frames after the last one that was read: no number comes after them that would show that they are missing."""
    read = {}
    for stream in subscribe["streams"]:
        read.update((int(publisher), numbers["next"]) for publisher, numbers in stream["ledger"]["publishers"].items())
    made = {stream["stamped_as"]: stream["next_sequence"] for stream in publish["streams"]}
    return sum(max(0, number - read.get(publisher, 0)) for publisher, number in made.items())
