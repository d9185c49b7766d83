// Issues a stream key, follows its sessions and revokes it.
//
// node issue_key.js ADDRESS CA_FILE TOKEN_FILE APP STREAM

'use strict';

const { randomUUID } = require('node:crypto');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { promisify } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const PROTO = path.join(__dirname, '../../../proto');

function load() {
  const files = ['headwater/v1/events.proto', 'headwater/v1/stream_keys.proto'];
  const options = { includeDirs: [PROTO], keepCase: true, longs: String, enums: String, defaults: true };
  return grpc.loadPackageDefinition(protoLoader.loadSync(files, options)).headwater.v1;
}

// google/rpc/status.proto and error_details.proto, as far as they are read here.
const { root: details } = protobuf.parse(`
  syntax = "proto3";
  message Status { repeated Any details = 3; }
  message Any { string type_url = 1; bytes value = 2; }
  message ErrorInfo { string reason = 1; }
`);

// What a backend decides by: ErrorInfo.reason, which is documented and stable.
function reason(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  const status = bytes && details.lookupType('Status').decode(bytes);
  for (const { typeUrl, value } of status?.details ?? []) {
    if (typeUrl.endsWith('/google.rpc.ErrorInfo')) return details.lookupType('ErrorInfo').decode(value).reason;
  }
  return grpc.status[error.code] ?? 'failed';
}

async function main(address, caFile, tokenFile, app, stream) {
  const token = readFileSync(tokenFile, 'utf8').trim().split(/\s+/)[0];
  const bearer = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    done(null, metadata);
  });
  const credentials = grpc.credentials.combineChannelCredentials(
    grpc.credentials.createSsl(readFileSync(caFile)),
    bearer,
  );
  const options = { 'grpc.keepalive_time_ms': 30_000 };
  const headwater = load();
  const keys = new headwater.StreamKeyService(address, credentials, options);
  const events = new headwater.EventService(address, credentials, options);
  const call = (method, request) =>
    promisify(method.bind(keys))(request, new grpc.Metadata(), { deadline: Date.now() + 10_000 });

  const { stream_key: key, secret } = await call(keys.CreateStreamKey, {
    app,
    stream,
    description: 'issued by the Node example',
    labels: { plan: 'basic' },
    policy: { limits: { max_bitrate_bps: 20_000_000, max_width: 1920, max_height: 1920 } },
    // Sent again after a timeout, this creates no second key.
    request_id: randomUUID(),
  });
  console.log('created', key.id, secret);
  await follow(events, key);
  await call(keys.RevokeStreamKey, { id: key.id, reason: 'the show is over' });
  console.log('revoked', key.id);
  keys.close();
  events.close();
}

// Prints the key's sessions as they start and end, until one has ended.
async function follow(events, key) {
  const watch = events.WatchEvents({
    // Since the key is there: an event between the two calls is not missed.
    since: key.create_time,
    app: key.app,
    types: ['EVENT_TYPE_SESSION_STARTED', 'EVENT_TYPE_SESSION_ENDED'],
  });
  for await (const answer of watch) {
    for (const { type, session } of answer.events) {
      if (session?.stream_key_id !== key.id) continue;
      if (type === 'EVENT_TYPE_SESSION_STARTED') {
        console.log('started', session.session_id);
      } else {
        console.log('ended', session.session_id, session.reason);
        return;
      }
    }
  }
  throw new Error('the watch ended');
}

if (process.argv.length !== 7) {
  console.error('node issue_key.js ADDRESS CA_FILE TOKEN_FILE APP STREAM');
  process.exit(1);
}
main(...process.argv.slice(2)).catch((error) => {
  console.error(`${reason(error)}: ${error.details ?? error.message}`);
  process.exit(1);
});
