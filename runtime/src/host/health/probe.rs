//! One check: a program in the container, an HTTP request or a connection. What it came to, and a few words of it.
//!
//! Connections are made from within the container's network, by sockets that a thread made in it. It must not know what
//! follows from a check.

use super::super::{Inner, netns};
use crate::{Error, Result};
use futures_util::StreamExt;
use oci_spec::runtime::Process;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::backend::{Input, Output};
use swarm_api::model::{HealthTest, Id};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Bytes of a check's output that are kept.
const OUTPUT: usize = 512;
/// Bytes of an HTTP answer that are read at most.
const ANSWER: usize = 4096;
/// How long a killed program may take to be gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a check found: whether it was passed, and what it put out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) passed: bool,
    pub(super) output: String,
}

impl Finding {
    pub(super) fn failed(why: impl std::fmt::Display) -> Self {
        Self {
            passed: false,
            output: short(why.to_string().as_bytes()),
        }
    }
}

/// How one container is checked.
pub(super) enum Probe {
    /// By a program.
    Program(Box<Process>),
    /// From within its network.
    Network {
        /// Its network namespace.
        namespace: Arc<File>,
        /// Where a program of it may listen, in the order in which that is tried.
        addresses: Vec<IpAddr>,
        port: u16,
        /// The path of an HTTP request; none for a connection alone.
        path: Option<String>,
    },
}

impl Probe {
    /// For `test`, of the container whose first process is `pid` and which has `own` addresses. `program` makes the
    /// process of a command.
    pub(super) fn new(
        test: &HealthTest,
        pid: i32,
        own: &[IpAddr],
        program: impl FnOnce(&[String]) -> Result<Process>,
    ) -> Result<Self> {
        let (port, path) = match test {
            HealthTest::Command(words) => return Ok(Self::Program(Box::new(program(words)?))),
            HealthTest::Http { port, path } => (*port, Some(path.clone())),
            HealthTest::Tcp { port } => (*port, None),
        };
        let namespace = format!("/proc/{pid}/ns/net");
        let namespace =
            File::open(&namespace).map_err(|e| Error::io(format!("open {namespace}"), e))?;
        let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        addresses.extend_from_slice(own);
        addresses.push(Ipv6Addr::LOCALHOST.into());
        Ok(Self::Network {
            namespace: Arc::new(namespace),
            addresses,
            port,
            path,
        })
    }

    /// Makes the check, within `timeout`.
    pub(super) async fn run(&self, inner: &Arc<Inner>, id: &Id, timeout: Duration) -> Finding {
        let late = || Finding::failed(format!("no answer within {}", seconds(timeout)));
        match self {
            Self::Program(process) => command(inner, id, process, timeout).await,
            Self::Network {
                namespace,
                addresses,
                port,
                path,
            } => {
                let asking = async {
                    let mut stream = connect(namespace, addresses, *port).await?;
                    match path {
                        None => Ok(Finding {
                            passed: true,
                            output: String::new(),
                        }),
                        Some(path) => get(&mut stream, *port, path).await,
                    }
                };
                match tokio::time::timeout(timeout, asking).await {
                    Ok(Ok(finding)) => finding,
                    Ok(Err(why)) => Finding::failed(format!("port {port}: {why}")),
                    Err(_) => late(),
                }
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// Runs a program in the container. One that takes too long is killed.
async fn command(inner: &Arc<Inner>, id: &Id, process: &Process, timeout: Duration) -> Finding {
    let (input, inputs) = tokio::sync::mpsc::channel(1);
    let inputs = tokio_stream::wrappers::ReceiverStream::new(inputs).boxed();
    let started = inner
        .engine
        .exec(id.as_str(), process, false, None, inputs)
        .await;
    let mut outputs = match started {
        Ok(outputs) => outputs,
        Err(why) => return Finding::failed(why),
    };
    let mut said = Vec::new();
    let mut ended = async || {
        while let Some(output) = outputs.next().await {
            match output {
                // All is read, so that it is not held up; what is too much is dropped.
                Ok(Output::Stdout(bytes) | Output::Stderr(bytes)) => {
                    let room = OUTPUT.saturating_sub(said.len());
                    said.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Ok(Output::Exit(exit)) => return Ok(exit.code),
                Err(why) => return Err(why.to_string()),
            }
        }
        Err("how it ended is not known".to_owned())
    };
    let Ok(code) = tokio::time::timeout(timeout, ended()).await else {
        let _ = input.send(Input::Signal(libc::SIGKILL)).await;
        let _ = tokio::time::timeout(FAREWELL, ended()).await;
        let said = short(&said);
        let after = if said.is_empty() { "" } else { ": " };
        return Finding::failed(format!(
            "it did not end within {} and was killed{after}{said}",
            seconds(timeout)
        ));
    };
    let said = short(&said);
    match code {
        Ok(0) => Finding {
            passed: true,
            output: said,
        },
        Ok(code) if said.is_empty() => Finding::failed(format!("exit code {code}")),
        Ok(_) => Finding::failed(said),
        Err(why) => Finding::failed(why),
    }
}

/// The first of `addresses` that takes the connection. Where none does, why the first did not.
async fn connect(
    namespace: &Arc<File>,
    addresses: &[IpAddr],
    port: u16,
) -> std::result::Result<TcpStream, String> {
    let mut first = None;
    for address in addresses {
        let outcome = async {
            let socket = socket(namespace, address.is_ipv4()).await?;
            let socket = TcpSocket::from_std_stream(socket.into());
            socket.connect(SocketAddr::new(*address, port)).await
        };
        match outcome.await {
            Ok(stream) => return Ok(stream),
            Err(why) => {
                first.get_or_insert_with(|| format!("cannot connect to {address}: {why}"));
            }
        }
    }
    Err(first.unwrap_or_else(|| "there is no address to connect to".into()))
}

/// A socket of another network namespace.
async fn socket(namespace: &Arc<File>, four: bool) -> io::Result<OwnedFd> {
    netns::within(Arc::clone(namespace), move || {
        let family = if four {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(socket_with(family, SocketType::STREAM, flags, None)?)
    })
    .await
}

/// Sends a GET and reads the first line of the answer.
async fn get(
    stream: &mut TcpStream,
    port: u16,
    path: &str,
) -> std::result::Result<Finding, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: swarmd-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let broken = |e: io::Error| format!("the connection broke: {e}");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while answer.len() < ANSWER {
        match stream.read(&mut piece).await {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            // Once there is a status, how the rest comes does not matter.
            Err(_) if status(&answer).is_some() => break,
            Err(e) => return Err(broken(e)),
        }
        // What is wrong is said in the body.
        if status(&answer).is_some_and(|s| passes(s) && answer.contains(&b'\n')) {
            break;
        }
    }
    let Some(code) = status(&answer) else {
        return Err(format!(
            "the answer is not HTTP: {:?}",
            short(&answer[..answer.len().min(64)])
        ));
    };
    let line = answer.split(|b| *b == b'\n').next().unwrap_or_default();
    let mut output = short(line);
    if !passes(code)
        && let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n")
        && answer.len() > at + 4
    {
        output = short(format!("{output}: {}", short(&answer[at + 4..])).as_bytes());
    }
    Ok(Finding {
        passed: passes(code),
        output,
    })
}

fn passes(status: u16) -> bool {
    (200..400).contains(&status)
}

/// The status of `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|_| rest.get(1) == Some(&b' '))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Text for people, cut short: no control characters but line ends, nothing around it.
fn short(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(OUTPUT)]);
    let plain = |c: char| {
        if c.is_control() && c != '\n' { ' ' } else { c }
    };
    let text: String = text.chars().map(plain).collect();
    let text = text.trim();
    text[..text.floor_char_boundary(OUTPUT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// What a check of a server says that gives `answer`, which may be in pieces.
    async fn asked(
        answer: &[&'static str],
        path: Option<&str>,
    ) -> std::result::Result<Finding, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer: Vec<&'static str> = answer.to_vec();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            for piece in answer {
                let _ = stream.write_all(piece.as_bytes()).await;
                tokio::task::yield_now().await;
            }
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let found = get(&mut stream, port, path.unwrap_or("/")).await;
        let request = server.await.unwrap();
        assert!(request.starts_with(&format!("GET {} HTTP/1.1\r\nHost: ", path.unwrap_or("/"))));
        found
    }

    #[tokio::test]
    async fn statuses_from_200_to_399_pass_and_what_is_wrong_is_told() {
        for good in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 302 Found\r\n\r\n"] {
            assert!(asked(&[good], Some("/a?b")).await.unwrap().passed, "{good}");
        }
        let ill = asked(
            &[
                "HTTP/1.1 5",
                "03 Not now\r\nA: b\r\n",
                "\r\nno data\x1b[1mbase\n",
            ],
            None,
        );
        let ill = ill.await.unwrap();
        assert!(!ill.passed);
        assert_eq!(ill.output, "HTTP/1.1 503 Not now: no data [1mbase");
        let error = asked(&["SSH-2.0-x\r\n"], None).await.unwrap_err();
        assert!(
            error.contains("not HTTP") && error.contains("SSH"),
            "{error}"
        );
        assert!(asked(&[], None).await.is_err());
    }

    #[test]
    fn output_is_cut_at_a_character_and_has_no_control_characters() {
        assert_eq!(short(b" a\tb\x1b\n"), "a b");
        let long = "\u{e9}".repeat(OUTPUT);
        assert!(short(long.as_bytes()).len() <= OUTPUT + 3);
        assert_eq!(short(&[0xff, b'a']), "\u{fffd}a");
    }

    #[tokio::test]
    async fn an_address_that_takes_no_connection_does_not_hide_one_that_does() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let namespace = Arc::new(File::open("/proc/self/ns/net").unwrap());
        let (other, own) = ([127, 0, 0, 9].into(), [127, 0, 0, 1].into());
        // As root only: others may not enter a network namespace, not even their own.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        connect(&namespace, &[other, own], port).await.unwrap();
        let why = connect(&namespace, &[other], port).await.unwrap_err();
        assert!(why.contains("127.0.0.9"), "{why}");
    }
}
