use super::challenge::{self, Challenge};
use super::manifest::{self, Document, Platform};
use super::{Target, http};
use swarm_api::Error;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// The path of a request is made of it.
#[test]
fn a_tag_that_is_a_step_of_a_path_is_refused() {
    for bad in ["r.example/a:..", "r.example/a:.", "r.example/a:-x"] {
        assert!(target(bad, None).is_err(), "{bad}");
    }
    assert!(target("r.example/a:_1.2-x", None).is_ok());
}

fn target(text: &str, default: Option<&str>) -> Result<String, Error> {
    let target = Target::of(&text.parse().unwrap(), default)?;
    Ok(format!("{} {target}", target.authority()))
}

#[test]
fn a_name_says_whom_to_ask_for_what() {
    for (text, wanted) in [
        (
            "docker.io/nginx",
            "registry-1.docker.io docker.io/library/nginx:latest",
        ),
        (
            "docker.io/team/web:2",
            "registry-1.docker.io docker.io/team/web:2",
        ),
        (
            "localhost:5000/web",
            "localhost:5000 localhost:5000/web:latest",
        ),
    ] {
        assert_eq!(target(text, None).unwrap(), wanted);
    }
    let digest = format!("quay.io/a/b:1@{A}");
    assert_eq!(
        target(&digest, None).unwrap(),
        format!("quay.io quay.io/a/b@{A}")
    );
    assert_eq!(
        target("nginx:1", Some("docker.io")).unwrap(),
        "registry-1.docker.io docker.io/library/nginx:1"
    );
    let why = target("nginx", None).unwrap_err();
    assert!(
        matches!(&why, Error::NotFound(w) if w.contains("nginx") && w.contains("docker.io/library/nginx"))
    );
    for odd in ["a.b/../c", "a.b//c", "a.b/c:1/d"] {
        assert!(target(odd, None).is_err(), "{odd}");
    }
}

#[test]
fn only_this_host_and_who_is_named_may_do_without_tls() {
    let named = [
        "10.1.0.0/16".to_owned(),
        "reg.example:5000".into(),
        "plain.example".into(),
    ];
    for (authority, may) in [
        ("localhost", true),
        ("localhost:5000", true),
        ("127.9.9.9:80", true),
        ("[::1]:80", true),
        ("10.1.2.3:5000", true),
        ("10.2.2.3:5000", false),
        ("reg.example:5000", true),
        ("reg.example:5001", false),
        ("plain.example:9", true),
        ("docker.io", false),
        ("localhost.example", false),
    ] {
        assert_eq!(http::may_be_plain(&named, authority), may, "{authority}");
    }
}

#[test]
fn a_challenge_is_read_whatever_stands_in_its_quotes() {
    let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    };
    for (text, wanted) in [
        ("Basic realm=\"x\"", Some(Challenge::Basic)),
        ("basic", Some(Challenge::Basic)),
        (
            "Bearer realm=\"https://a/t\",service=\"s, t\",scope=\"repository:a/b:pull,push\"",
            bearer(
                "https://a/t",
                Some("s, t"),
                Some("repository:a/b:pull,push"),
            ),
        ),
        (
            "bearer scope=x, Realm=\"h\\\"i\"",
            bearer("h\"i", None, Some("x")),
        ),
        ("Bearer service=\"no realm\"", None),
        ("Negotiate", None),
        ("Bearer realm=\"open", bearer("open", None, None)),
    ] {
        assert_eq!(challenge::parse(text), wanted, "{text}");
    }
    let realm = "https://a/t?x=1".parse().unwrap();
    let uri = challenge::with_query(&realm, &[("scope", "repository:a/b:pull")]).unwrap();
    assert_eq!(
        uri.to_string(),
        "https://a/t?x=1&scope=repository%3Aa%2Fb%3Apull"
    );
}

fn index(entries: &[(&str, &str, &str)]) -> Vec<manifest::Descriptor> {
    let manifests: Vec<_> = entries
        .iter()
        .map(|(digest, architecture, variant)| {
            serde_json::json!({"mediaType": "m", "digest": digest, "size": 1,
                "platform": {"os": "linux", "architecture": architecture, "variant": variant}})
        })
        .collect();
    let text = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    match manifest::read(text.as_bytes()).unwrap() {
        Document::Index(entries) => entries,
        Document::Image(_) => panic!("an index is no image"),
    }
}

#[test]
fn an_index_gives_the_image_of_the_platform_or_says_which_there_are() {
    let on = |architecture: &str| Platform {
        os: "linux".into(),
        architecture: architecture.into(),
    };
    let entries = index(&[(A, "amd64", ""), (B, "arm64", "v8")]);
    assert_eq!(manifest::choose(&entries, &on("amd64")).unwrap().digest, A);
    assert_eq!(manifest::choose(&entries, &on("arm64")).unwrap().digest, B);
    let why = manifest::choose(&entries, &on("riscv64"))
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("linux/riscv64") && why.contains("linux/arm64"),
        "{why}"
    );
    let variants = index(&[(A, "amd64", "v3"), (B, "amd64", "")]);
    assert_eq!(manifest::choose(&variants, &on("amd64")).unwrap().digest, B);
}

#[test]
fn documents_that_are_no_images_are_refused() {
    for text in [
        "",
        "{}",
        r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#,
        r#"{"schemaVersion":2}"#,
        r#"{"schemaVersion":2,"config":{"digest":"sha256:../..","size":1},"layers":[]}"#,
        r#"{"schemaVersion":2,"manifests":[{"digest":"md5:1","size":1}]}"#,
    ] {
        assert!(manifest::read(text.as_bytes()).is_err(), "{text}");
    }
    assert!(manifest::read_config(b"{}").is_err());
    let config = br#"{"created":"2026-01-02T03:04:05.678Z","architecture":"amd64","os":"linux",
        "config":{"Cmd":["a"],"Env":null,"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT","User":"u"},
        "rootfs":{"type":"layers","diff_ids":["sha256:a"]}}"#;
    let file = manifest::read_config(config).unwrap();
    assert_eq!(file.config.command, ["a"]);
    assert_eq!(file.config.exposed_ports, ["80/tcp"]);
    assert_eq!(file.config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(file.created.unwrap().as_millisecond(), 1_767_323_045_678);
}

#[test]
fn a_registry_s_own_words_are_kept_and_bounded() {
    let body = br#"{"errors":[{"code":"X","message":"no\nsuch"},{"code":"Y","message":""}]}"#;
    assert_eq!(manifest::read_errors(body), ": nosuch");
    assert_eq!(manifest::read_errors(b"<html>"), "");
    assert_eq!(
        challenge::read_token(br#"{"access_token":"t"}"#).unwrap(),
        "t"
    );
    assert!(challenge::read_token(b"{}").is_err());
}
