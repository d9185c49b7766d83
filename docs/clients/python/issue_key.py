"""Issues a stream key, follows its sessions and revokes it.

issue_key.py ADDRESS CA_FILE TOKEN_FILE APP STREAM
"""

import sys
import uuid
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from headwater.v1 import (
    events_pb2,
    events_pb2_grpc,
    policy_pb2,
    stream_keys_pb2,
    stream_keys_pb2_grpc,
)


def main(address, ca_file, token_file, app, stream):
    token = Path(token_file).read_text().split()[0]
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(Path(ca_file).read_bytes()),
        grpc.access_token_call_credentials(token),
    )
    options = [("grpc.keepalive_time_ms", 30_000)]
    with grpc.secure_channel(address, credentials, options) as channel:
        keys = stream_keys_pb2_grpc.StreamKeyServiceStub(channel)
        events = events_pb2_grpc.EventServiceStub(channel)
        created = keys.CreateStreamKey(
            stream_keys_pb2.CreateStreamKeyRequest(
                app=app,
                stream=stream,
                description="issued by the Python example",
                labels={"plan": "basic"},
                policy=policy_pb2.PublishPolicy(
                    limits=policy_pb2.MediaLimits(max_bitrate_bps=20_000_000, max_width=1920, max_height=1920),
                ),
                # Sent again after a timeout, this creates no second key.
                request_id=str(uuid.uuid4()),
            ),
            timeout=10,
        )
        key = created.stream_key
        print("created", key.id, created.secret, flush=True)
        follow(events, key)
        keys.RevokeStreamKey(
            stream_keys_pb2.RevokeStreamKeyRequest(id=key.id, reason="the show is over"),
            timeout=10,
        )
        print("revoked", key.id, flush=True)


def follow(events, key):
    """Prints the key's sessions as they start and end, until one has ended."""
    watch = events.WatchEvents(
        # Since the key is there: an event between the two calls is not missed.
        events_pb2.WatchEventsRequest(
            since=key.create_time,
            app=key.app,
            types=[events_pb2.EVENT_TYPE_SESSION_STARTED, events_pb2.EVENT_TYPE_SESSION_ENDED],
        )
    )
    for answer in watch:
        for event in answer.events:
            if event.session.stream_key_id != key.id:
                continue
            if event.type == events_pb2.EVENT_TYPE_SESSION_STARTED:
                print("started", event.session.session_id, flush=True)
            else:
                print("ended", event.session.session_id, event.session.reason, flush=True)
                watch.cancel()
                return
    sys.exit("the watch ended")


def reason(error):
    """What a backend decides by: `ErrorInfo.reason`, which is documented and stable."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return error.code().name


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as error:
        sys.exit(f"{reason(error)}: {error.details()}")
