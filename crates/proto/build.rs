//! Compiles `proto/` without an installed `protoc`.

use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = [
        "headwater/v1/edges.proto",
        "headwater/v1/events.proto",
        "headwater/v1/media.proto",
        "headwater/v1/playback.proto",
        "headwater/v1/policy.proto",
        "headwater/v1/sessions.proto",
        "headwater/v1/stream_keys.proto",
        "headwater/v1/tenants.proto",
        "headwater/v1/tokens.proto",
        "headwater/internal/v1/admission.proto",
        "headwater/internal/v1/cluster.proto",
        "headwater/internal/v1/relay.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(files, [&root])?;
    let output = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(
        Path::new(&output).join("descriptors.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        // Bodies cross every hop as shared buffers.
        .bytes(".headwater.v1.Frame")
        // Labels: the same request is the same bytes.
        .btree_map(".headwater.v1")
        // Hold a stream key or what is as good as one: nothing can print them by accident.
        .skip_debug([
            ".headwater.internal.v1.AdobeCredential",
            ".headwater.internal.v1.AdobeResponse",
            ".headwater.internal.v1.AuthorizeRequest",
            ".headwater.v1.CreateStreamKeyResponse",
            ".headwater.v1.CreateTokenResponse",
            ".headwater.v1.CreateWebhookResponse",
            ".headwater.v1.RotateStreamKeyResponse",
            ".headwater.v1.RotateTokenResponse",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
