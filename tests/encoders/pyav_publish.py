"""Publishes with PyAV: a moving picture and a tone, at the pace of a live encoder.

Usage: pyav_publish.py URL VIDEO_CODEC SECONDS
"""

import sys
import time

import av

WIDTH, HEIGHT, RATE = 160, 90, 15


def picture(index: int) -> av.VideoFrame:
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    for number, plane in enumerate(frame.planes):
        plane.update(bytes((index * 8 + number * 64 + place // 64) % 256 for place in range(plane.buffer_size)))
    frame.pts = index
    return frame


def silence(index: int, samples: int) -> av.AudioFrame:
    frame = av.AudioFrame(format="fltp", layout="mono", samples=samples)
    frame.sample_rate = 44100
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.pts = index * samples
    return frame


def main() -> None:
    url, codec, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with av.open(url, "w", format="flv") as output:
        options = {"preset": "ultrafast"}
        video = output.add_stream(codec, rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.gop_size = RATE
        audio = output.add_stream("aac", rate=44100, layout="mono")
        start, sounds = time.monotonic(), 0
        for index in range(seconds * RATE):
            time.sleep(max(0.0, start + index / RATE - time.monotonic()))
            output.mux(video.encode(picture(index)))
            while sounds * 1024 / 44100 <= index / RATE:
                output.mux(audio.encode(silence(sounds, 1024)))
                sounds += 1
        output.mux(video.encode(None))
        output.mux(audio.encode(None))


if __name__ == "__main__":
    main()
