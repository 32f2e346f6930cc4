//! Which proxy leads to whom (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, as curl and Go's programs read them). Pure.

use http::Uri;
use std::net::IpAddr;
use swarm_api::{Error, Result};

/// The proxies of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    none: Vec<Exception>,
}

/// One proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    /// Where it is; `https` where it is spoken to with TLS.
    pub(super) uri: Uri,
    /// User and password, where it wants those.
    pub(super) login: Option<(String, String)>,
}

/// Whom no proxy leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    Network(ipnet::IpNet),
    /// A host and those below it, at one port or at all.
    Host(String, Option<u16>),
    /// Those below it alone.
    Below(String, Option<u16>),
}

impl Proxies {
    /// What the environment says. The names in small letters go first.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a variable names no proxy.
    pub fn of_environment() -> Result<Self> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// What variables say.
    ///
    /// # Errors
    /// See [`Proxies::of_environment`].
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let one = |name: &str| {
            let (small, large) = (name.to_lowercase(), name.to_uppercase());
            let value = variable(&small).map(|v| (small, v));
            let value = value.or_else(|| variable(&large).map(|v| (large, v)));
            value.filter(|(_, v)| !v.trim().is_empty())
        };
        let proxy = |name: &str| {
            let all = || one("all_proxy");
            let found = one(name).or_else(all);
            found
                .map(|(name, value)| read_proxy(&name, value.trim()))
                .transpose()
        };
        let none = one("no_proxy").map(|(_, v)| v).unwrap_or_default();
        let none = none.split([',', ' ']).map(str::trim);
        Ok(Self {
            http: proxy("http_proxy")?,
            https: proxy("https_proxy")?,
            none: none.filter(|e| !e.is_empty()).map(read_exception).collect(),
        })
    }

    /// The proxy that leads to a host, if one does. This host itself is reached without.
    pub(super) fn to(&self, tls: bool, host: &str, port: u16) -> Option<&Proxy> {
        let ip: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return None;
        }
        let excepted = |exception: &Exception| match exception {
            Exception::All => true,
            Exception::Network(network) => ip.is_some_and(|ip| network.contains(&ip)),
            Exception::Host(name, at) => {
                at.is_none_or(|at| at == port) && (host == name || is_below(host, name))
            }
            Exception::Below(name, at) => at.is_none_or(|at| at == port) && is_below(host, name),
        };
        if self.none.iter().any(excepted) {
            return None;
        }
        if tls { &self.https } else { &self.http }.as_ref()
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name)
        .is_some_and(|rest| rest.ends_with('.'))
}

fn read_proxy(variable: &str, value: &str) -> Result<Proxy> {
    let bad = |why: &str| {
        // Not the value: there may be a password in it.
        Error::Invalid(format!(
            "{variable} in swarmd's environment names no proxy: {why}; write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
        ))
    };
    let whole = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    let (scheme, rest) = whole.split_once("://").ok_or_else(|| bad("it is empty"))?;
    if !matches!(scheme, "http" | "https") {
        return Err(bad(&format!(
            "it is of the kind {scheme}, which is not spoken here"
        )));
    }
    let rest = rest.split('/').next().unwrap_or(rest);
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (Some((decoded(user), decoded(password))), place)
        }
        None => (None, rest),
    };
    let uri: Uri = format!("{scheme}://{place}/")
        .parse()
        .map_err(|_| bad("it is no address"))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("it has no host"));
    }
    let whole = uri.authority().map_or("", |a| a.as_str());
    if uri.port_u16().is_none() && uri.host() != Some(whole) {
        return Err(bad("its port is no number"));
    }
    Ok(Proxy { uri, login })
}

/// Without percent signs (RFC 3986).
fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(byte));
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn read_exception(text: &str) -> Exception {
    if text == "*" {
        return Exception::All;
    }
    if let Ok(network) = text.parse() {
        return Exception::Network(network);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Exception::Network(ip.into());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (text, None),
    };
    let host = host.to_lowercase();
    match host.strip_prefix("*.").or(host.strip_prefix('.')) {
        Some(below) => Exception::Below(below.to_owned(), port),
        None => Exception::Host(host, port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies> {
        Proxies::read(|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_leads_to_all_but_those_who_are_excepted() {
        let proxies = proxies(&[
            ("HTTPS_PROXY", "http://u%40x:p%3aq@proxy.example:3128/"),
            ("http_proxy", "plain.example:80"),
            ("HTTP_PROXY", "http://other.example"),
            (
                "NO_PROXY",
                "reg.example, .below.example,10.0.0.0/8 *.star.example,only.example:5000,192.0.2.7",
            ),
        ])
        .unwrap();
        let to = |tls, host, port| {
            let proxy = proxies.to(tls, host, port);
            proxy.map(|p| p.uri.host().unwrap().to_owned())
        };
        let proxy = proxies.to(true, "docker.io", 443).unwrap();
        assert_eq!(proxy.login, Some(("u@x".into(), "p:q".into())));
        assert_eq!(proxy.uri.port_u16(), Some(3128));
        assert_eq!(to(false, "docker.io", 80).unwrap(), "plain.example");
        for host in [
            "localhost",
            "127.0.0.1",
            "::1",
            "reg.example",
            "a.reg.example",
            "a.below.example",
            "a.star.example",
            "10.1.2.3",
            "192.0.2.7",
        ] {
            assert_eq!(to(true, host, 443), None, "{host}");
        }
        for host in ["below.example", "star.example", "areg.example", "192.0.2.8"] {
            assert!(to(true, host, 443).is_some(), "{host}");
        }
        assert!(to(true, "only.example", 443).is_some());
        assert_eq!(to(true, "only.example", 5000), None);
    }

    #[test]
    fn without_variables_there_is_none_and_nonsense_is_said_without_its_password() {
        let none = proxies(&[("HTTP_PROXY", " ")]).unwrap();
        assert_eq!(none, Proxies::default());
        assert_eq!(none.to(true, "a.example", 443), None);
        let star = proxies(&[("ALL_PROXY", "http://p:1"), ("NO_PROXY", "*")]).unwrap();
        assert_eq!(star.to(false, "a.example", 80), None);
        for bad in [
            "socks5://u:secret@h:1",
            "http://u:secret@",
            "http://u:secret@h:x",
        ] {
            let why = proxies(&[("HTTPS_PROXY", bad)]).unwrap_err().to_string();
            assert!(
                why.contains("HTTPS_PROXY") && !why.contains("secret"),
                "{why}"
            );
        }
    }
}
