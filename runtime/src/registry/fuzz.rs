//! What fuzzers call here; see `crate::fuzz`.

use super::{challenge, manifest};
use ::http::Uri;
use swarm_api::model::ImageReference;

/// A manifest or an index.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(document) = manifest::read(bytes) else {
        return;
    };
    let digest = |digest: &str| {
        // It becomes a part of a path, on this host and in the registry.
        let hex = digest.strip_prefix("sha256:").expect("a kind of digest");
        assert!(hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    };
    match document {
        manifest::Document::Image(image) => {
            digest(&image.config.digest);
            image.layers.iter().for_each(|layer| digest(&layer.digest));
        }
        manifest::Document::Index(entries) => {
            entries.iter().for_each(|entry| {
                digest(&entry.digest);
                let _ = entry.name();
            });
            if let Ok(chosen) = manifest::choose(&entries, &manifest::Platform::here()) {
                assert!(entries.contains(chosen));
            }
        }
    }
}

/// An image's configuration.
pub(crate) fn config(bytes: &[u8]) {
    let _ = manifest::read_config(bytes);
}

/// A refusal. What people see of it has no control characters and is short.
pub(crate) fn errors(bytes: &[u8]) {
    let text = manifest::read_errors(bytes);
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.chars().count() <= 4096, "{} characters", text.len());
}

/// An authorization server's answer.
pub(crate) fn token(bytes: &[u8]) {
    let _ = challenge::read_token(bytes);
}

/// `WWW-Authenticate`. What it names goes into the query of a request, and nowhere else in it.
pub(crate) fn challenge(header: &str) {
    let Some(challenge::Challenge::Bearer {
        realm,
        service,
        scope,
    }) = challenge::parse(header)
    else {
        return;
    };
    let Ok(uri) = realm.parse::<Uri>() else {
        return;
    };
    let mut pairs = Vec::new();
    pairs.extend(service.as_deref().map(|service| ("service", service)));
    pairs.extend(scope.as_deref().map(|scope| ("scope", scope)));
    if pairs.is_empty() {
        return;
    }
    if let Ok(whole) = challenge::with_query(&uri, &pairs) {
        assert_eq!(uri.authority(), whole.authority(), "{realm:?}");
        assert_eq!(uri.scheme(), whole.scheme(), "{realm:?}");
    }
}

/// Where an image is asked for.
pub(crate) fn target(reference: &ImageReference) {
    for default in [None, Some("registry.example")] {
        let Ok(target) = super::Target::of(reference, default) else {
            continue;
        };
        let path = format!("/v2/{}/manifests/{}", target.repository, target.selector);
        let good = |part: &str| !part.is_empty() && !part.starts_with('.');
        assert!(path[1..].split('/').all(good), "{path:?}");
        let uri = format!("https://{}{path}", target.authority());
        // A name may be none of a host; but what is one is the one that was named.
        if let Ok(uri) = uri.parse::<Uri>() {
            assert_eq!(uri.path(), path);
            assert_eq!(
                uri.authority().map(::http::uri::Authority::as_str),
                Some(target.authority())
            );
        }
    }
}
