//! `whoami`: a small static HTTP server that says which host, task and addresses answered.
//!
//! In: plain HTTP/1.x requests on one port. Out: a text page, and a line on standard output per request. It is the
//! image that `swarmd` carries, so it is one file, uses the standard library only, and knows nothing of the rest of
//! this workspace: what it says of its task comes from the environment that every task gets.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Requests that are answered at the same time; further ones wait in the kernel's queue.
const THREADS: usize = 8;
/// Stack of one such thread, in bytes.
const STACK: usize = 128 * 1024;
/// The longest head of a request (request line and headers), in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// A client has this long to send its head, and again to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

const HELP: &str = "\
whoami answers HTTP requests with the host, task and addresses that answered.

Usage: whoami [PORT]

PORT is the TCP port to listen on; the variable PORT if not given, or else 80.

  GET /health   200 and \"ok\"
  GET /env      the environment
  GET anything  host name, task, service, node, addresses, and the request itself
";

fn main() -> ExitCode {
    let port = match port(std::env::args().nth(1), std::env::var("PORT").ok()) {
        Ok(Some(port)) => port,
        Ok(None) => {
            say(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(why) => return fail(&why),
    };
    signals::exit_when_asked_to();
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

/// The port to listen on; `None` where help was asked for.
fn port(argument: Option<String>, variable: Option<String>) -> Result<Option<u16>, String> {
    let text = match argument {
        Some(a) if a == "--help" || a == "-h" => return Ok(None),
        Some(a) => a,
        None => variable.unwrap_or_else(|| "80".into()),
    };
    match text.parse() {
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err(format!(
            "\"{text}\" is not a port: give a number from 1 to 65535, or see whoami --help"
        )),
    }
}

fn serve(port: u16) -> Result<(), String> {
    // A kernel without IPv6 refuses the first.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|e| {
            format!("cannot listen on TCP port {port}: {e}; give another port as the argument")
        })?;
    say(&format!("whoami listens on port {port}"));
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            // Fewer threads (a limit on pids) answer as well, only fewer at a time.
            let _ = std::thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, || accept(&listener));
        }
        accept(&listener);
    });
    Ok(())
}

fn accept(listener: &TcpListener) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                if let Err(e) = converse(stream, peer) {
                    say(&format!("{peer} {e}"));
                }
            }
            // Out of descriptors or memory: give others time to return theirs.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// One request, one answer.
fn converse(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some(head) = read_head(&mut stream, Instant::now() + PATIENCE)? else {
        return Ok(());
    };
    let answer = match Request::parse(&head) {
        Ok(request) => {
            let answer = request.answer(&Facts::gather(peer));
            say(&format!(
                "{peer} {} {} {}",
                request.method, request.target, answer.status
            ));
            answer
        }
        Err(why) => {
            say(&format!("{peer} bad request: {why}"));
            Answer::text("400 Bad Request", format!("{why}\n"))
        }
    };
    stream.write_all(&answer.bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Take what the client still sends, so that closing does not reset the connection under the answer.
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if !matches!(stream.read(&mut rest), Ok(n) if n > 0) {
            break;
        }
    }
    Ok(())
}

/// Reads up to the empty line. `None` where the client closed without a word; what came so far where it is too
/// long or ends early, for the parser to refuse.
fn read_head(stream: &mut TcpStream, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "sent no whole request in time",
            ));
        }
        stream.set_read_timeout(Some(left))?;
        let n = match stream.read(&mut chunk) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        head.extend_from_slice(&chunk[..n]);
        if n == 0 {
            return Ok((!head.is_empty()).then_some(head));
        }
        if head.len() > MAX_HEAD || end_of_head(&head).is_some() {
            return Ok(Some(head));
        }
    }
}

/// Where the head ends: just after the last header's line end.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|i| i + 2);
    let lf = bytes.windows(2).position(|w| w == b"\n\n").map(|i| i + 1);
    match (crlf, lf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A request's head (RFC 9112, sections 3 and 5).
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    target: String,
    version: String,
    /// The header lines as they came.
    headers: Vec<String>,
}

impl Request {
    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let end = end_of_head(bytes).ok_or(if bytes.len() > MAX_HEAD {
            "the request's head is too long"
        } else {
            "the request ends before its empty line"
        })?;
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "the head is not UTF-8")?;
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("the request line is not METHOD TARGET VERSION");
        };
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err("the method is not a word in capitals");
        }
        if !target.starts_with('/') && target != "*" && !target.starts_with("http://") {
            return Err("the target is not a path");
        }
        if !version.starts_with("HTTP/1.") {
            return Err("the version is not HTTP/1.0 or HTTP/1.1");
        }
        let headers: Vec<String> = lines.map(str::to_owned).collect();
        if !headers.iter().all(|h| h.contains(':')) {
            return Err("a header has no colon");
        }
        Ok(Self {
            method: method.into(),
            target: target.into(),
            version: version.into(),
            headers,
        })
    }

    fn answer(&self, facts: &Facts) -> Answer {
        if self.method != "GET" && self.method != "HEAD" {
            return Answer::text(
                "405 Method Not Allowed",
                format!("{} is not answered; send GET\n", self.method),
            );
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let mut answer = match path {
            "/health" => Answer::text("200 OK", "ok\n".into()),
            "/env" => Answer::text("200 OK", lines(&facts.environment)),
            _ => Answer::text("200 OK", self.describe(facts)),
        };
        answer.without_body = self.method == "HEAD";
        answer
    }

    fn describe(&self, facts: &Facts) -> String {
        let mut page = vec![format!("Hostname: {}", facts.hostname)];
        for (label, name) in [
            ("Task", "SWARM_TASK_NAME"),
            ("Service", "SWARM_SERVICE"),
            ("Node", "SWARM_NODE"),
        ] {
            page.push(format!("{label}: {}", facts.variable(name)));
        }
        page.extend(facts.addresses.iter().map(|a| format!("IP: {a}")));
        page.push(format!("RemoteAddr: {}", facts.peer));
        page.push(format!("{} {} {}", self.method, self.target, self.version));
        page.extend(self.headers.iter().cloned());
        lines(&page)
    }
}

/// What there is to tell.
struct Facts {
    hostname: String,
    addresses: Vec<IpAddr>,
    /// `NAME=value`, sorted.
    environment: Vec<String>,
    peer: SocketAddr,
}

impl Facts {
    fn gather(peer: SocketAddr) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mut addresses = ipv4_addresses(&read("/proc/net/fib_trie"));
        addresses.extend(ipv6_addresses(&read("/proc/net/if_inet6")));
        let mut environment: Vec<String> = std::env::vars_os()
            .map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy()))
            .collect();
        environment.sort();
        Self {
            hostname: read("/proc/sys/kernel/hostname").trim().into(),
            addresses,
            environment,
            peer,
        }
    }

    fn variable(&self, name: &str) -> &str {
        let value = |e: &'_ String| {
            e.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        };
        self.environment
            .iter()
            .find(|e| value(e))
            .map_or("", |e| &e[name.len() + 1..])
    }
}

/// The host's own addresses in the text of /proc/net/fib_trie (a leaf, then `/32 host LOCAL`), loopback left out.
fn ipv4_addresses(fib_trie: &str) -> Vec<IpAddr> {
    let mut found = std::collections::BTreeSet::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in fib_trie.lines() {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            leaf = address.trim().parse().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(leaf.filter(|a| !a.is_loopback()).map(IpAddr::V4));
        }
    }
    found.into_iter().collect()
}

/// The addresses in the text of /proc/net/if_inet6 (32 hexadecimal digits first on each line), loopback and
/// link-local ones left out.
fn ipv6_addresses(if_inet6: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next().filter(|d| d.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from)
    };
    if_inet6
        .lines()
        .filter_map(address)
        .filter(|a| !a.is_loopback() && !a.is_unicast_link_local())
        .map(IpAddr::V6)
        .collect()
}

/// An answer, always in plain text, always the last on its connection.
#[derive(Debug)]
struct Answer {
    status: &'static str,
    body: String,
    without_body: bool,
}

impl Answer {
    fn text(status: &'static str, body: String) -> Self {
        Self {
            status,
            body,
            without_body: false,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n",
            self.status,
            self.body.len(),
            if self.status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" },
        )
        .into_bytes();
        if !self.without_body {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

fn lines(of: &[String]) -> String {
    let mut text = of.join("\n");
    text.push('\n');
    text
}

/// One line on standard output; a reader that went away is no reason to end.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn fail(why: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "whoami: {why}");
    ExitCode::FAILURE
}

/// The one thing that the standard library has no word for. As the first process of a pid namespace, a signal
/// without a handler does nothing (pid_namespaces(7)), so SIGTERM would be ignored for lack of one.
mod signals {
    #![allow(unsafe_code)]

    use std::ffi::c_int;

    const SIGINT: c_int = 2;
    const SIGTERM: c_int = 15;

    unsafe extern "C" {
        /// signal(2): returns the previous handler, or SIG_ERR.
        fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
        /// _exit(2): ends the process at once, without its exit handlers.
        fn _exit(status: c_int) -> !;
    }

    extern "C" fn leave(_number: c_int) {
        // SAFETY: _exit is async-signal-safe (signal-safety(7)) and does not return.
        unsafe { _exit(0) }
    }

    /// Ends the process with exit code 0 on SIGTERM and SIGINT.
    pub(crate) fn exit_when_asked_to() {
        for number in [SIGTERM, SIGINT] {
            // SAFETY: both numbers are valid and may be caught; the handler has C's calling convention, is never
            // freed, and calls only what is async-signal-safe.
            unsafe {
                signal(number, leave);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            hostname: "web-2".into(),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 3, 0, 7))],
            environment: vec![
                "SWARM_NODE=b".into(),
                "SWARM_SERVICE=web".into(),
                "SWARM_TASK_NAME=web.2".into(),
            ],
            peer: SocketAddr::from(([10, 3, 0, 9], 4242)),
        }
    }

    fn request(text: &str) -> Request {
        Request::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_get_is_told_who_answers_and_what_was_asked() {
        let answer = request("GET /x?y HTTP/1.1\r\nHost: web\r\nA: b\r\n\r\n").answer(&facts());
        assert_eq!(answer.status, "200 OK");
        assert_eq!(
            answer.body,
            "Hostname: web-2\nTask: web.2\nService: web\nNode: b\nIP: 10.3.0.7\nRemoteAddr: 10.3.0.9:4242\n\
             GET /x?y HTTP/1.1\nHost: web\nA: b\n"
        );
    }

    #[test]
    fn health_and_environment_have_their_own_paths() {
        let get = |path: &str| request(&format!("GET {path} HTTP/1.0\n\n")).answer(&facts());
        assert_eq!(get("/health").body, "ok\n");
        assert_eq!(
            get("/env").body,
            "SWARM_NODE=b\nSWARM_SERVICE=web\nSWARM_TASK_NAME=web.2\n"
        );
    }

    #[test]
    fn head_gets_the_length_without_the_body() {
        let answer = request("HEAD /health HTTP/1.1\r\n\r\n").answer(&facts());
        let text = String::from_utf8(answer.bytes()).unwrap();
        assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn other_methods_are_refused_with_what_is_allowed() {
        let answer = request("POST / HTTP/1.1\r\n\r\n").answer(&facts());
        let text = String::from_utf8(answer.bytes()).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("\r\nAllow: GET, HEAD\r\n"));
    }

    #[test]
    fn a_malformed_request_is_refused_and_never_panics() {
        for bad in [
            "",
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "get / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 x\r\n\r\n",
            "GET x HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n",
        ] {
            assert!(Request::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Request::parse(b"GET /\xff HTTP/1.1\r\n\r\n").is_err());
        assert!(Request::parse(&[b'a'; MAX_HEAD + 1]).is_err());
    }

    #[test]
    fn addresses_are_read_from_proc() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.3.0.7\n        /32 host LOCAL\n     |-- 10.3.0.255\n        \
                    /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(ipv4_addresses(trie), [IpAddr::from([10, 3, 0, 7])]);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe800000000000000000000000000001 02 40 20 80     eth0\n\
                     fd000000000000000000000000000007 02 40 00 80     eth0\nrubbish\n";
        assert_eq!(
            ipv6_addresses(inet6),
            ["fd00::7".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn the_argument_beats_the_variable_and_the_default() {
        let p = |a: Option<&str>, v: Option<&str>| port(a.map(Into::into), v.map(Into::into));
        assert_eq!(p(None, None), Ok(Some(80)));
        assert_eq!(p(None, Some("8080")), Ok(Some(8080)));
        assert_eq!(p(Some("81"), Some("8080")), Ok(Some(81)));
        assert_eq!(p(Some("--help"), None), Ok(None));
        assert!(p(Some("0"), None).is_err() && p(None, Some("x")).is_err());
    }

    #[test]
    fn a_client_is_answered_over_tcp() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let (stream, peer) = listener.accept().unwrap();
        converse(stream, peer).unwrap();
        let text = client.join().unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\nRemoteAddr: 127.0.0.1:")
        );
    }
}
