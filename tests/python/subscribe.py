"""Follows a stream with grpcio's defaults and prints each keyframe's size and hash.

subscribe.py URL CA_FILE TOKEN APP STREAM
"""

import hashlib
import sys

import grpc
from headwater.v1 import playback_pb2, playback_pb2_grpc


def main(url, ca_file, token, app, stream):
    scheme, address = url.split("://")
    # No options: above all not grpc.max_receive_message_length.
    if scheme == "https":
        with open(ca_file, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(address.replace("127.0.0.1", "localhost"), credentials)
    else:
        channel = grpc.insecure_channel(address)
    with channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        events = playback_pb2_grpc.PlaybackServiceStub(channel).Subscribe(
            playback_pb2.SubscribeRequest(app=app, stream=stream, wait_for_stream=True),
            metadata=[("authorization", f"Bearer {token}")],
        )
        print("subscribed")
        body = bytearray()
        for event in events:
            if event.HasField("end"):
                print("end", event.end.reason)
                return
            if not event.HasField("batch"):
                print(event.WhichOneof("event"))
                continue
            for frame in event.batch.frames.frames:
                body += frame.body
                if not frame.last_fragment:
                    continue
                if any(part.keyframe for part in frame.parts):
                    print("keyframe", len(body), hashlib.sha256(body).hexdigest())
                body.clear()
    sys.exit("the stream broke off")


main(*sys.argv[1:])
