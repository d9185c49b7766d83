#!/usr/bin/env python3
"""Writes down every connection that begins in this network namespace, on whatever interface: a line of JSON each, with
time, protocol, source and target. In a node's namespace that is all that its pods send and get, before and after a
Service's address was replaced by a pod's, and however short it is: the kernel hands over the first packets.

Ends with SIGTERM; the last line then says how many packets it missed.
"""

import argparse
import contextlib
import ctypes
import json
import signal
import socket
import struct
import time

ALL_PROTOCOLS, IPV4 = 0x0003, 0x0800
TCP, UDP = 6, 17
# What comes again within this time is the same attempt, or its way through another interface.
SAME_SECONDS = 30
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
RECEIVE_BUFFER_BYTES = 8 << 20
# Ethernet's protocol number, as a classic filter asks for it.
PROTOCOL_OFFSET = 0xFFFFF000

# From `linux/filter.h`: load, jump if equal, jump if any bit, load the length of the IP header, return.
LOAD_HALF, LOAD_BYTE, LOAD_BYTE_BEHIND_HEADER = 0x28, 0x30, 0x50
JUMP_EQUAL, JUMP_BITS, AND, HEADER_LENGTH, RETURN = 0x15, 0x45, 0x54, 0xB1, 0x06
# Packets begin with the IP header. Taken are UDP, and TCP with SYN and without ACK; of fragments, the first.
FILTER = [
    (LOAD_HALF, 0, 0, PROTOCOL_OFFSET),
    (JUMP_EQUAL, 0, 10, IPV4),
    (LOAD_HALF, 0, 0, 6),
    (JUMP_BITS, 8, 0, 0x1FFF),
    (LOAD_BYTE, 0, 0, 9),
    (JUMP_EQUAL, 5, 0, UDP),
    (JUMP_EQUAL, 0, 5, TCP),
    (HEADER_LENGTH, 0, 0, 0),
    (LOAD_BYTE_BEHIND_HEADER, 0, 0, 13),
    (AND, 0, 0, 0x12),
    (JUMP_EQUAL, 0, 1, 0x02),
    (RETURN, 0, 0, 0xFFFF),
    (RETURN, 0, 0, 0),
]


def open_socket():
    taken = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PROTOCOLS))
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in FILTER)
    kept = ctypes.create_string_buffer(program, len(program))
    taken.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(FILTER), ctypes.addressof(kept))
    )
    taken.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    # What came before the filter did.
    taken.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            taken.recv(1)
    taken.setblocking(True)
    return taken


def parse(packet):
    header = (packet[0] & 0x0F) * 4
    source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    source_port, target_port = struct.unpack_from("!HH", packet, header)
    return "TCP" if packet[9] == TCP else "UDP", source, source_port, target, target_port


class Ended(Exception):
    pass


def end(*_):
    raise Ended


def record(taken, output):
    seen = {}
    while True:
        flow = parse(taken.recv(256))
        now = time.time()
        if now - seen.get(flow, 0) < SAME_SECONDS:
            continue
        seen[flow] = now
        output.write(json.dumps([now, *flow]) + "\n")
        output.flush()
        if len(seen) > 10_000:
            seen = {flow: then for flow, then in seen.items() if now - then < SAME_SECONDS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="file, made when it records")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, end)
    taken = open_socket()
    with open(arguments.output, "w") as output:
        try:
            record(taken, output)
        except Ended:
            _, missed = struct.unpack("II", taken.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            output.write(json.dumps({"missed": missed}) + "\n")


if __name__ == "__main__":
    main()
