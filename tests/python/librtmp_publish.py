"""Publishes an FLV file with librtmp, as old devices and GStreamer's rtmpsink do, at the pace of its timestamps.

librtmp_publish.py URL FILE
"""

import ctypes
import sys
import time

FILE_HEADER = 9 + 4
TAG_HEADER = 11


def tags(data):
    """Each tag with its time in milliseconds, and the size that follows it."""
    position = FILE_HEADER
    while position + TAG_HEADER <= len(data):
        size = int.from_bytes(data[position + 1 : position + 4], "big")
        low, high = data[position + 4 : position + 7], data[position + 7 : position + 8]
        end = position + TAG_HEADER + size + 4
        yield int.from_bytes(high + low, "big"), data[position:end]
        position = end


def main(url, path):
    librtmp = ctypes.CDLL("librtmp.so.1")
    librtmp.RTMP_Alloc.restype = ctypes.c_void_p
    librtmp.RTMP_LogSetLevel(4)
    session = ctypes.c_void_p(librtmp.RTMP_Alloc())
    librtmp.RTMP_Init(session)
    # It keeps pointers into the URL.
    url = ctypes.create_string_buffer(url.encode())
    if not librtmp.RTMP_SetupURL(session, url):
        sys.exit("librtmp does not understand the URL")
    librtmp.RTMP_EnableWrite(session)
    if not librtmp.RTMP_Connect(session, None):
        sys.exit("RTMP_Connect failed")
    if not librtmp.RTMP_ConnectStream(session, 0):
        sys.exit("RTMP_ConnectStream failed")
    print("published", flush=True)
    started = time.monotonic()
    with open(path, "rb") as file:
        data = file.read()
    for timestamp, tag in tags(data):
        time.sleep(max(0, started + timestamp / 1000 - time.monotonic()))
        if librtmp.RTMP_Write(session, tag, len(tag), 0) <= 0:
            sys.exit("RTMP_Write failed")
    librtmp.RTMP_Close(session)
    librtmp.RTMP_Free(session)


main(*sys.argv[1:])
