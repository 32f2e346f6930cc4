//! A blocking netlink socket: requests in batches, each answered by the kernel within the call that sends it.

use std::io;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::abi::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLMSGERR_ATTR_MSG};
use super::wire::{HEADER, Message, Received, attr, messages, text, u32_at};
use crate::error::{Error, Result};

/// Requests per datagram, so that the acknowledgements fit into the receive buffer of any host.
const BATCH: usize = 64;
/// The kernel sends at most 32 KiB at once.
const RECEIVE: usize = 1 << 16;
/// Enough for a transaction of some 100,000 rules; the kernel copies a datagram whole.
const TRANSACTION: usize = 16 << 20;
/// The kernel answers within the sending call; only a bug makes this wait end.
const ANSWER_WITHIN_SECONDS: i64 = 5;
/// How often a dump is started again that changed under the reader.
const DUMP_TRIES: usize = 8;

/// What the kernel said against a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) source: io::Error,
    pub(crate) detail: Option<String>,
}

impl Refusal {
    pub(crate) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or_default()
    }

    pub(crate) fn into_error(self, doing: impl Into<String>) -> Error {
        Error::Kernel {
            doing: doing.into(),
            source: self.source,
            detail: self.detail,
        }
    }
}

/// The outcome of one request: what the kernel sent back, if anything.
pub(crate) type Answer = Result<Vec<u8>, Refusal>;

/// A socket bound to the network namespace in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    seq: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Links, addresses, neighbours, routes.
    pub(crate) fn route() -> Result<Self> {
        Self::open(NETLINK_ROUTE).map_err(|source| Error::Socket {
            doing: "open a route netlink socket",
            source,
        })
    }

    /// nf_tables.
    pub(crate) fn netfilter() -> Result<Self> {
        let open = || {
            let netlink = Self::open(NETLINK_NETFILTER)?;
            // Without it transactions are limited to net.core.wmem_max, which most hosts live with.
            let _ = setsockopt(&netlink.socket, sockopt::SndBufForce, &TRANSACTION);
            Ok(netlink)
        };
        open().map_err(|source| Error::Socket {
            doing: "open a netfilter netlink socket",
            source,
        })
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Both only make messages better and shorter.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(ANSWER_WITHIN_SECONDS),
        )?;
        Ok(Self {
            socket,
            seq: 0,
            buffer: vec![0; RECEIVE],
        })
    }

    /// Sends requests and returns their answers, in order. A refused request does not hinder those after it.
    pub(crate) fn execute(&mut self, requests: &[Message]) -> Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            answers.extend(self.batch(batch)?);
        }
        Ok(answers)
    }

    fn batch(&mut self, requests: &[Message]) -> Result<Vec<Answer>> {
        let first = self.seq.wrapping_add(1);
        let mut datagram = Vec::new();
        for request in requests {
            self.seq = self.seq.wrapping_add(1);
            let mut request = request.clone();
            request.flags |= libc::NLM_F_ACK as u16;
            request.write(self.seq, &mut datagram);
        }
        self.send(&datagram)?;
        let mut answers: Vec<Answer> = requests.iter().map(|_| Ok(Vec::new())).collect();
        let mut waiting = requests.len();
        while waiting > 0 {
            let len = self.receive()?;
            for message in messages(&self.buffer[..len]) {
                let Some(answer) = answers.get_mut(message.seq.wrapping_sub(first) as usize) else {
                    continue;
                };
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    *answer = Ok(message.body.to_vec());
                    continue;
                }
                waiting = waiting.saturating_sub(1);
                if let Some(refusal) = refusal(&message) {
                    *answer = Err(refusal);
                }
            }
        }
        Ok(answers)
    }

    /// All objects that a request selects.
    pub(crate) fn dump(&mut self, request: &Message, doing: &str) -> Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_TRIES {
            if let Some(objects) = self.dump_once(request, doing)? {
                return Ok(objects);
            }
        }
        let source = io::Error::from_raw_os_error(libc::EINTR);
        Err(Error::Kernel {
            doing: doing.to_owned(),
            source,
            detail: Some("it changes all the time".into()),
        })
    }

    fn dump_once(&mut self, request: &Message, doing: &str) -> Result<Option<Vec<Vec<u8>>>> {
        self.seq = self.seq.wrapping_add(1);
        let mut datagram = Vec::new();
        let mut request = request.clone();
        request.flags |= libc::NLM_F_DUMP as u16;
        request.write(self.seq, &mut datagram);
        self.send(&datagram)?;
        let (mut objects, mut interrupted) = (Vec::new(), false);
        loop {
            let len = self.receive()?;
            for message in messages(&self.buffer[..len]).filter(|m| m.seq == self.seq) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => {
                        return match refusal(&message) {
                            Some(refused) if refused.errno() == libc::EINTR => Ok(None),
                            Some(refused) => Err(refused.into_error(doing)),
                            None => Ok((!interrupted).then_some(objects)),
                        };
                    }
                    libc::NLMSG_DONE => return Ok((!interrupted).then_some(objects)),
                    _ => objects.push(message.body.to_vec()),
                }
            }
        }
    }

    /// Sends one nfnetlink transaction: `begin`, the requests, `end`. All take effect, or none.
    ///
    /// On refusal, the index of the request and what the kernel said against it.
    pub(crate) fn transaction(
        &mut self,
        begin: &Message,
        requests: &[Message],
        end: &Message,
    ) -> Result<Result<(), (usize, Refusal)>> {
        let begin_seq = self.seq.wrapping_add(1);
        let mut datagram = Vec::new();
        begin.write(begin_seq, &mut datagram);
        let first = begin_seq.wrapping_add(1);
        self.seq = begin_seq;
        for (index, request) in requests.iter().enumerate() {
            self.seq = self.seq.wrapping_add(1);
            let mut request = request.clone();
            if index + 1 == requests.len() {
                // Refusals come unasked; this says that all were looked at.
                request.flags |= libc::NLM_F_ACK as u16;
            }
            request.write(self.seq, &mut datagram);
        }
        let last = self.seq;
        self.seq = self.seq.wrapping_add(1);
        end.write(self.seq, &mut datagram);
        self.send(&datagram)?;
        let mut outcome = Ok(());
        loop {
            let len = self.receive()?;
            let mut done = false;
            for message in messages(&self.buffer[..len]) {
                let ours = message.seq.wrapping_sub(begin_seq) <= last.wrapping_sub(begin_seq);
                if !ours || i32::from(message.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                // A refusal of the transaction as a whole carries the first message's number.
                done |= message.seq == last || message.seq == begin_seq;
                if let (Some(refusal), Ok(())) = (refusal(&message), &outcome) {
                    outcome = Err((message.seq.wrapping_sub(first) as usize, refusal));
                }
            }
            if done {
                return Ok(outcome);
            }
        }
    }

    fn send(&self, datagram: &[u8]) -> Result<()> {
        let failed = |source| Error::Socket {
            doing: "send to the kernel's netlink socket",
            source,
        };
        let sent = self.socket.send(datagram, 0).map_err(failed)?;
        if sent != datagram.len() {
            return Err(failed(io::Error::from(io::ErrorKind::WriteZero)));
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<usize> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Socket {
                        doing: "read the answer of the kernel's netlink socket",
                        source,
                    });
                }
            }
        }
    }
}

/// `struct nlmsgerr` and what follows it; `None` for an acknowledgement.
fn refusal(message: &Received<'_>) -> Option<Refusal> {
    let code = u32_at(message.body, 0)?.cast_signed();
    if code == 0 {
        return None;
    }
    let original = if message.flags & NLM_F_CAPPED == 0 {
        u32_at(message.body, 4)? as usize
    } else {
        HEADER
    };
    let tail = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| message.body.get(4 + original.next_multiple_of(4)..));
    let detail = tail
        .flatten()
        .and_then(|tail| attr(tail, NLMSGERR_ATTR_MSG))
        .map(text);
    Some(Refusal {
        source: io::Error::from_raw_os_error(-code),
        detail,
    })
}
