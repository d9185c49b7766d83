"""What happened, for people and for comparison with later versions."""

import json

from media import PATIENCE, PAUSE_GOAL_MS, RECONNECT_PAUSE_GOAL_MS


class Report:
    def __init__(self, work):
        self.work = work
        self.steps, self.scenarios, self.operator, self.flows = [], [], {}, {}

    def step(self, what, seconds):
        self.steps.append({"step": what, "seconds": round(seconds, 1)})
        print(f"e2e: {what}: {seconds:.1f} s", flush=True)

    def scenario(self, what, seconds, seen):
        self.scenarios.append({"scenario": what, "operation_seconds": round(seconds, 1), **seen.figures})
        print(json.dumps(self.scenarios[-1], indent=1), flush=True)

    def audit(self, audit):
        self.operator = {"refused": audit.refused(), "granted_but_unused": audit.unused()}

    def write(self):
        self.work.mkdir(parents=True, exist_ok=True)
        content = {"steps": self.steps, "scenarios": self.scenarios, "operator": self.operator}
        content["connections"] = self.flows
        for directory in (self.work / "logs", self.work.parent):
            if directory.is_dir():
                (directory / "e2e-report.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
                (directory / "e2e-report.md").write_text(self.table())
        print(self.table(), flush=True)

    def table(self):
        lines = [
            "Publishers of `headwater bench` (25 frames a second, every frame accounted for): of each pair of figures, the",
            "first is of those that come back by themselves, the second of those that follow a request to connect elsewhere.",
            "And one ffmpeg, read by a player over HTTP-FLV.",
            f"The goal of a pause is {PAUSE_GOAL_MS} ms, and {RECONNECT_PAUSE_GOAL_MS} ms of the first where edges go;",
            f"the run fails at {PATIENCE} times that.",
            "",
            "| operation | took s | publishers | cut | ffmpeg cut | frames read | lost | lost at reconnect "
            "| skipped | twice | latest frame ms | longest pause ms | p99 of pauses ms "
            "| player silent ms | player's timestamps jump ms |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.scenarios:
            def both(figure, row=row):
                figures = (row[group][figure] for group in ("legacy", "capable"))
                return " / ".join("–" if figure is None else str(figure) for figure in figures)

            cells = (
                *(row["scenario"], row["operation_seconds"], both("publishers"), both("disconnects")),
                *(row["ffmpeg_disconnects"], both("frames"), both("frames_lost"), both("frames_lost_between_sessions")),
                *(both("frames_skipped"), both("frames_duplicated"), both("latency_max_ms")),
                *(both("pause_max_ms"), both("pause_p99_ms")),
                *(row["player_longest_silence_ms"], row["player_longest_timestamp_jump_ms"]),
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines += ["", "| step | s |", "|---|---|"]
        lines += [f"| {step['step']} | {step['seconds']} |" for step in self.steps]
        if self.operator:
            lines += ["", f"Operator: refused {self.operator['refused'] or 'nothing'}."]
            lines += ["Granted and never used: " + (", ".join(self.operator["granted_but_unused"]) or "nothing") + "."]
        if self.flows:
            lines += ["", "| connections, all allowed by the NetworkPolicies | seen |", "|---|---|"]
            lines += [f"| {flow} | {count} |" for flow, count in self.flows.items()]
        return "\n".join(lines) + "\n"
