//! What a registry answers, and the names that people ask it for.

use super::Bytes;
use crate::registry::fuzz as inner;
use swarm_api::model::ImageReference;

/// The first byte says what the rest is.
pub fn registry(data: &[u8]) {
    let mut bytes = Bytes(data);
    match bytes.byte() {
        b'm' => inner::manifest(bytes.0),
        b'c' => inner::config(bytes.0),
        b'e' => inner::errors(bytes.0),
        b't' => inner::token(bytes.0),
        b'w' => {
            if let Ok(header) = std::str::from_utf8(bytes.0) {
                inner::challenge(header);
            }
        }
        _ => {
            if let Ok(name) = std::str::from_utf8(bytes.0) {
                reference(name);
            }
        }
    }
}

/// A name that is accepted means the same when it is written out, and names a place below the registry's own paths.
fn reference(name: &str) {
    let Ok(reference) = name.parse::<ImageReference>() else {
        return;
    };
    let written = reference.to_string();
    assert_eq!(
        written.parse::<ImageReference>().ok().as_ref(),
        Some(&reference),
        "{written:?} does not mean what it was made of"
    );
    inner::target(&reference);
}
