//! Application, stream key and query.

use rtmp::{
    ConnectRequest, PublishPath,
    limits::{APP_BYTES, NAME_BYTES, QUERY_BYTES, QUERY_PARAMETERS},
};

use crate::script::Script;

/// Counted app, counted tcUrl, and the name.
pub(crate) fn publish_path(data: &[u8]) {
    let mut script = Script::new(data);
    let mut text = || String::from_utf8_lossy(script.counted()).into_owned();
    let connect = ConnectRequest {
        app: text(),
        tc_url: text(),
        ..ConnectRequest::default()
    };
    let Ok(path) = PublishPath::split(&connect, script.rest()) else {
        return;
    };
    assert!(!path.app.is_empty() && path.app.len() <= APP_BYTES + NAME_BYTES);
    for segment in path.app.split('/') {
        assert!(!matches!(segment, "" | "." | ".."), "{:?}", path.app);
        let clean = |c: char| c.is_ascii_alphanumeric() || "_-.~=+@".contains(c);
        assert!(segment.chars().all(clean), "{:?}", path.app);
    }
    let stream_key = path.stream_key.expose();
    assert!(!stream_key.is_empty() && stream_key.len() <= NAME_BYTES + APP_BYTES);
    let dirty = |c: char| c.is_control() || c == '/' || c == '\\';
    assert!(!stream_key.contains(dirty), "{stream_key:?}");
    assert!(path.query.len() <= QUERY_PARAMETERS);
    let bytes = path
        .query
        .iter()
        .map(|(name, value)| name.len() + value.expose().len());
    assert!(bytes.sum::<usize>() <= QUERY_BYTES);
}
