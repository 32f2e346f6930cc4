//! A plain HTTP client of a few lines: one request, one answer, with a deadline.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The body that `GET path` on `address` is answered with, asked from where this thread is.
///
/// # Errors
/// No connection, no answer within `limit`, or a status other than 200.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    let what = || format!("GET http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, limit).with_context(what)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(what)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(what)?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{}: the answer is not HTTP: {answer:?}", what());
    };
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("{}: {}", what(), head.lines().next().unwrap_or_default());
    }
    Ok(body.into())
}

/// The value of the line `name: value` in what `whoami` answered.
///
/// # Errors
/// Where there is no such line.
pub fn field(page: &str, name: &str) -> Result<String> {
    page.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
        .map(Into::into)
        .with_context(|| format!("there is no \"{name}\" in {page:?}"))
}
