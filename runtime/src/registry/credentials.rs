//! Docker's credential file, and the helper programs that it names (docker-credential-helpers' protocol).

use data_encoding::BASE64;
use http::HeaderValue;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use swarm_api::{Error, Result};
use tokio::io::AsyncWriteExt;

/// What a helper may take.
const HELPER: Duration = Duration::from_secs(20);

/// Who one is to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Basic {
        user: String,
        password: String,
    },
    /// What tokens are made of.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::IdentityToken(_) => "IdentityToken",
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What the file says of a registry; a file that is not there says nothing.
pub(super) async fn find(file: Option<&Path>, registry: &str) -> Result<Option<Credentials>> {
    let Some(path) = file else {
        return Ok(None);
    };
    let text = match tokio::fs::read(path).await {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(Error::Invalid(format!(
                "cannot read the credential file {}: {e}",
                path.display()
            )));
        }
    };
    let file: File = serde_json::from_slice(&text).map_err(|e| {
        Error::Invalid(format!(
            "cannot understand the credential file {}: {e}",
            path.display()
        ))
    })?;
    let keys = keys(registry);
    let helper = keys.iter().find_map(|k| file.cred_helpers.get(k));
    if let Some(helper) = helper.or(file.creds_store.as_ref()) {
        for key in &keys {
            if let Some(found) = ask_helper(helper, key).await? {
                return Ok(Some(found));
            }
        }
    }
    let auth = keys.iter().find_map(|k| file.auths.get(k));
    auth.map_or(Ok(None), |auth| {
        read(auth).map_err(|e| e.context(format!("{}: the entry of {registry}", path.display())))
    })
}

/// Under what names Docker keeps a registry.
fn keys(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        return [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
        ]
        .map(str::to_owned)
        .into();
    }
    ["", "https://", "http://"]
        .iter()
        .flat_map(|scheme| {
            ["", "/", "/v1/", "/v2/"].map(|path| format!("{scheme}{registry}{path}"))
        })
        .collect()
}

fn read(auth: &Auth) -> Result<Option<Credentials>> {
    if let Some(token) = auth.identitytoken.clone().filter(|t| !t.is_empty()) {
        return Ok(Some(Credentials::IdentityToken(token)));
    }
    if let Some(encoded) = auth.auth.as_deref().filter(|a| !a.is_empty()) {
        let bad = || Error::Invalid("its `auth` is not USER:PASSWORD in base64".into());
        let plain = BASE64.decode(encoded.as_bytes()).map_err(|_| bad())?;
        let plain = String::from_utf8(plain).map_err(|_| bad())?;
        let (user, password) = plain.split_once(':').ok_or_else(bad)?;
        return Ok(Some(Credentials::Basic {
            user: user.into(),
            password: password.trim_end_matches('\0').into(),
        }));
    }
    Ok(match (&auth.username, &auth.password) {
        (Some(user), Some(password)) => Some(Credentials::Basic {
            user: user.clone(),
            password: password.clone(),
        }),
        _ => None,
    })
}

async fn ask_helper(helper: &str, key: &str) -> Result<Option<Credentials>> {
    if helper.contains('/') {
        return Err(Error::Invalid(format!(
            "\"{helper}\" is not the name of a credential helper"
        )));
    }
    ask_program(&format!("docker-credential-{helper}"), key).await
}

async fn ask_program(program: &str, key: &str) -> Result<Option<Credentials>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let failed = |e: std::io::Error| {
        Error::Invalid(format!("cannot ask the credential helper {program}: {e}"))
    };
    let asking = async {
        let mut child = tokio::process::Command::new(program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(key.as_bytes()).await.map_err(failed)?;
        }
        child.wait_with_output().await.map_err(failed)
    };
    let output = tokio::time::timeout(HELPER, asking).await.map_err(|_| {
        Error::Unavailable(format!("the credential helper {program} does not answer"))
    })??;
    // It knows none: that is how they say it.
    if !output.status.success() {
        return Ok(None);
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| {
        Error::Invalid(format!(
            "the answer of the credential helper {program} cannot be read"
        ))
    })?;
    Ok(Some(if answer.username == "<token>" {
        Credentials::IdentityToken(answer.secret)
    } else {
        Credentials::Basic {
            user: answer.username,
            password: answer.secret,
        }
    }))
}

/// The header for a user and a password (RFC 7617).
pub(super) fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    let encoded = BASE64.encode(format!("{user}:{password}").as_bytes());
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|e| Error::Internal(format!("a header: {e}")))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn look(text: &str, registry: &str) -> Result<Option<Credentials>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        find(Some(&path), registry).await
    }

    fn user(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic {
            user: user.into(),
            password: password.into(),
        })
    }

    #[tokio::test]
    async fn a_registry_is_found_under_every_name_that_docker_gives_it() {
        for key in [
            "r.example:5000",
            "https://r.example:5000",
            "https://r.example:5000/v2/",
        ] {
            let text = format!(r#"{{"auths":{{"{key}":{{"auth":"YTpiOmM="}}}}}}"#);
            assert_eq!(
                look(&text, "r.example:5000").await.unwrap(),
                user("a", "b:c"),
                "{key}"
            );
        }
        let docker = r#"{"auths":{"https://index.docker.io/v1/":{"identitytoken":"t"}}}"#;
        assert_eq!(
            look(docker, "docker.io").await.unwrap(),
            Some(Credentials::IdentityToken("t".into()))
        );
        assert_eq!(look("{}", "r").await.unwrap(), None);
        assert_eq!(
            find(Some(Path::new("/no/such/file")), "r").await.unwrap(),
            None
        );
        for bad in ["", r#"{"auths":{"r":{"auth":"!"}}}"#] {
            assert!(look(bad, "r").await.is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_helper_is_asked_with_the_registry_s_name() {
        let dir = tempfile::tempdir().unwrap();
        let helper = dir.path().join("docker-credential-test");
        let script = "#!/bin/sh\nread -r host || true\n[ \"$host\" = r.example ] || exit 1\n\
                      echo '{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"s\"}'\n";
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = helper.to_str().unwrap();
        assert_eq!(
            ask_program(program, "r.example").await.unwrap(),
            user("u", "s")
        );
        assert_eq!(ask_program(program, "other").await.unwrap(), None);
        let text = r#"{"credHelpers":{"r.example":"no-such-helper"}}"#;
        let error = look(text, "r.example").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("docker-credential-no-such-helper"),
            "{error}"
        );
        let outside = r#"{"credsStore":"../../bin/sh"}"#;
        assert!(look(outside, "r").await.is_err());
    }
}
