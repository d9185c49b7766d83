#!/usr/bin/env python3
"""Reads one stream over HTTP-FLV as a player would that always knows which origin has it: from all of them at once.

Prints a line of JSON when it gets SIGINT or SIGTERM: how many tags came, the longest time between two of them, how far
timestamps jumped, and how often it had to connect anew. The stream is followed until then, whatever ends in between.
"""

import argparse
import http.client
import json
import signal
import threading
import time
import urllib.parse

# A response without a byte for this long is given up: the origin may be gone without a word.
SILENCE_SECONDS = 10
RETRY_SECONDS = 0.2


class Account:
    """What came, from any origin."""

    def __init__(self):
        self.lock = threading.Lock()
        self.tags = 0
        self.first = self.last = None
        self.longest_silence = 0.0
        self.started = time.monotonic()
        self.connections = 0
        self.refusals = {}
        self.timestamp = None
        self.longest_jump = 0

    def tag(self, timestamp):
        now = time.monotonic()
        with self.lock:
            self.tags += 1
            self.first = self.first or now
            self.longest_silence = max(self.longest_silence, now - (self.last or now))
            self.last = now
            if self.timestamp is not None and timestamp > self.timestamp:
                self.longest_jump = max(self.longest_jump, timestamp - self.timestamp)
            # What an origin repeats to a reader that joins is older; what begins again at zero is another broadcast.
            if self.timestamp is None or timestamp > self.timestamp or self.timestamp - timestamp > 10_000:
                self.timestamp = timestamp

    def longest_silence_until(self, now):
        """It may be silent still."""
        return max(self.longest_silence, now - self.last) if self.tags else now - self.started

    def report(self):
        with self.lock:
            return {
                "tags": self.tags,
                "seconds": round(self.last - self.first, 3) if self.tags else 0,
                "longest_silence_ms": round(1000 * self.longest_silence_until(time.monotonic())),
                "longest_timestamp_jump_ms": self.longest_jump,
                "connections": self.connections,
                "refusals": self.refusals,
            }


def follow(origin, path, account):
    while True:
        try:
            read(origin, path, account)
        except (EOFError, OSError, http.client.HTTPException, ValueError) as error:
            with account.lock:
                reason = str(error) or type(error).__name__
                account.refusals[reason] = account.refusals.get(reason, 0) + 1
        time.sleep(RETRY_SECONDS)


def read(origin, path, account):
    connection = http.client.HTTPConnection(origin, timeout=SILENCE_SECONDS)
    connection.request("GET", path)
    response = connection.getresponse()
    if response.status != 200:
        connection.close()
        raise ValueError(f"HTTP {response.status}")
    with account.lock:
        account.connections += 1
    exactly(response, 9 + 4)  # the file's header and the size of no tag before the first
    while True:
        header = exactly(response, 11)
        size = int.from_bytes(header[1:4], "big")
        timestamp = int.from_bytes(bytes([header[7]]) + header[4:7], "big")
        exactly(response, size + 4)
        account.tag(timestamp)


def exactly(response, count):
    data = response.read(count)
    if len(data) < count:
        raise EOFError("the response ended")
    return data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--path", required=True, help="/live/<app>/<stream>.flv")
    parser.add_argument("origins", nargs="+", help="host:port")
    arguments = parser.parse_args()
    with open(arguments.token_file) as file:
        query = urllib.parse.urlencode({"token": file.read().strip(), "wait": 5})
    account = Account()
    # Blocked before there are threads, so that this one gets it.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    for origin in arguments.origins:
        threading.Thread(target=follow, args=(origin, f"{arguments.path}?{query}", account), daemon=True).start()
    signal.sigwait(ends)
    print(json.dumps(account.report()), flush=True)


if __name__ == "__main__":
    main()
