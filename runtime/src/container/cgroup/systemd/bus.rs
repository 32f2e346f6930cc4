//! The conversation over D-Bus: one call after the other, in one thread, since whoever makes a container forks. The form of what is said
//! is the library's. Must not know of units or cgroups.

use crate::{Error, Result};
use serde::{Serialize, de::DeserializeOwned, ser::SerializeStruct};
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};
use zbus::{
    ObjectPath, Signature, Type, Variant,
    wire::{
        Endian, NATIVE_ENDIAN,
        serialized::{Context, Data},
        to_bytes,
    },
};

/// How long an answer or a signal is waited for: the usual time of D-Bus.
const PATIENCE: Duration = Duration::from_secs(25);

/// The longest message (D-Bus specification, "Message Format").
const LONGEST: usize = 1 << 27;

/// The part of a header whose length is always the same.
const FIXED: usize = 16;

/// Kinds of messages.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The other side says no.
    #[error("{text} ({name})")]
    Refused {
        /// Like `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// For people.
        text: String,
    },
    /// There was no answer.
    #[error("{0}")]
    Broken(#[from] Error),
}

impl Fault {
    /// Whether it is the refusal with this name.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}

/// Where one may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) socket: PathBuf,
    /// A broker listens there, whom one greets and tells what one wants to hear; otherwise the service itself does.
    pub(super) brokered: bool,
}

/// A service that is spoken to.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    address: Address,
    service: &'static str,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

/// What came.
#[derive(Debug, Default)]
pub(super) struct Message {
    kind: u8,
    member: String,
    error: String,
    reply_to: u32,
    swapped: bool,
    body: Vec<u8>,
}

impl Message {
    /// Its arguments: one, or a tuple of them.
    pub(super) fn read<T: DeserializeOwned + Type>(&self) -> Result<T> {
        let data = Data::new(self.body.as_slice(), Context::new(endian(self.swapped), 0));
        let (arguments, _) = data
            .deserialize()
            .map_err(|e| form(&format!("the arguments of {}", self.member), &e))?;
        Ok(arguments)
    }
}

impl Bus {
    /// Connects to the service at one of these addresses. The identity is what the kernel says of this process: what it calls itself in a
    /// user namespace would be nobody the other side knows.
    pub(super) fn connect(address: Address, service: &'static str) -> Result<Self> {
        let failed = |e| Error::io(format!("connect to {}", address.socket.display()), e);
        let mut stream = UnixStream::connect(&address.socket).map_err(failed)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"))
            .map_err(failed)?;
        for expected in ["DATA", "OK"] {
            let line = line(&mut stream).map_err(failed)?;
            if line.split(' ').next() != Some(expected) {
                return Err(Error::Unsupported(format!(
                    "{} does not know this user: it says `{line}`",
                    address.socket.display()
                )));
            }
        }
        let mut bus = Self {
            stream,
            address,
            service,
            serial: 0,
            signals: VecDeque::new(),
        };
        if bus.address.brokered {
            bus.ask_broker("Hello", &())?;
        }
        Ok(bus)
    }

    /// Has signals of the service sent here.
    pub(super) fn listen(&mut self, interface: &str, member: &str) -> Result<()> {
        if self.address.brokered {
            let rule = format!(
                "type='signal',sender='{}',interface='{interface}',member='{member}'",
                self.service
            );
            self.ask_broker("AddMatch", &rule)?;
        }
        Ok(())
    }

    fn ask_broker<B: Serialize + Type>(&mut self, member: &str, body: &B) -> Result<()> {
        let broker = "org.freedesktop.DBus";
        let serial = self.send(broker, "/org/freedesktop/DBus", broker, member, body)?;
        self.answer(serial).map(drop).map_err(|fault| match fault {
            Fault::Broken(error) => error,
            refused @ Fault::Refused { .. } => Error::Unsupported(format!(
                "{} refuses {member}: {refused}",
                self.address.socket.display()
            )),
        })
    }

    /// Calls a method and waits for its result.
    pub(super) fn call<B: Serialize + Type>(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
    ) -> Result<Message, Fault> {
        let serial = self.send(self.service, path, interface, member, body)?;
        self.answer(serial)
    }

    /// The next signal for which `wanted` has something, which is returned. Others are forgotten.
    pub(super) fn signal<T>(
        &mut self,
        wanted: impl Fn(&str, &Message) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.receive()?,
            };
            if message.kind == SIGNAL
                && let Some(found) = wanted(&message.member, &message)?
            {
                return Ok(found);
            }
            if Instant::now() > end {
                return Err(self.failed("wait for", io::ErrorKind::TimedOut.into()));
            }
        }
    }

    fn send<B: Serialize + Type>(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
    ) -> Result<u32> {
        self.serial += 1;
        let message = encode(self.serial, destination, path, interface, member, body)
            .map_err(|e| form(&format!("the call of {member}"), &e))?;
        self.stream
            .write_all(&message)
            .map_err(|e| self.failed("speak to", e))?;
        Ok(self.serial)
    }

    fn answer(&mut self, serial: u32) -> Result<Message, Fault> {
        loop {
            let message = self.receive()?;
            match message.kind {
                RETURN if message.reply_to == serial => return Ok(message),
                ERROR if message.reply_to == serial => {
                    // The first argument is a text, if there is one.
                    let text = message.read().unwrap_or_default();
                    return Err(Fault::Refused {
                        name: message.error,
                        text,
                    });
                }
                SIGNAL => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut head = vec![0; FIXED];
        self.stream
            .read_exact(&mut head)
            .map_err(|e| self.failed("hear", e))?;
        let (header, body) = lengths(&head).ok_or_else(|| {
            Error::Internal(format!(
                "what comes from {} is no D-Bus",
                self.address.socket.display()
            ))
        })?;
        head.resize(header, 0);
        let rest = head.get_mut(FIXED..).unwrap_or_default();
        let mut content = vec![0; body];
        self.stream
            .read_exact(rest)
            .and_then(|()| self.stream.read_exact(&mut content))
            .map_err(|e| self.failed("hear", e))?;
        let mut message = decode(&head).map_err(|e| form("a header", &e))?;
        message.body = content;
        Ok(message)
    }

    fn failed(&self, verb: &str, error: io::Error) -> Error {
        Error::io(
            format!(
                "{verb} {} at {}",
                self.service,
                self.address.socket.display()
            ),
            error,
        )
    }
}

/// One line of the greeting, without its end.
fn line(stream: &mut UnixStream) -> io::Result<String> {
    const MOST: usize = 1024;
    let mut text = Vec::new();
    // Byte by byte, as what follows is no line: the few there are do not matter.
    let mut byte = [0];
    while text.len() < MOST {
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => break,
            [b'\r'] => {}
            [other] => text.push(other),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn endian(swapped: bool) -> Endian {
    match (NATIVE_ENDIAN, swapped) {
        (Endian::Little, false) | (Endian::Big, true) => Endian::Little,
        _ => Endian::Big,
    }
}

fn form(what: &str, error: &zbus::Error) -> Error {
    Error::Internal(format!("D-Bus has another form for {what}: {error}"))
}

/// A signature as it stands in a header: a message may have several arguments, which are no structure there.
#[derive(Type)]
#[zbus(signature = "v")]
struct Arguments<'a>(&'a Signature);

impl Serialize for Arguments<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut variant = serializer.serialize_struct("Variant", 2)?;
        variant.serialize_field("signature", &Signature::Signature)?;
        variant.serialize_field("value", &self.0.to_string_no_parens())?;
        variant.end()
    }
}

/// A method call (D-Bus specification, "Message Format").
fn encode<B: Serialize + Type>(
    serial: u32,
    destination: &str,
    path: &str,
    interface: &str,
    member: &str,
    body: &B,
) -> zbus::Result<Vec<u8>> {
    let at_start = Context::new(NATIVE_ENDIAN, 0);
    let content = to_bytes(at_start, body)?;
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let order = match NATIVE_ENDIAN {
        Endian::Little => b'l',
        Endian::Big => b'B',
    };
    let fixed = (order, CALL, 0u8, 1u8, length, serial);
    let fields = (
        (PATH, Variant::from(ObjectPath::try_from(path)?)),
        (INTERFACE, Variant::from(interface)),
        (MEMBER, Variant::from(member)),
        (DESTINATION, Variant::from(destination)),
    );
    // An array is its length and its elements; so many structures one after the other look the same.
    let mut elements = to_bytes(at_start, &fields)?.to_vec();
    if *B::SIGNATURE != Signature::Unit {
        elements.resize(elements.len().next_multiple_of(8), 0);
        elements.extend_from_slice(&to_bytes(at_start, &(SIGNATURE, Arguments(B::SIGNATURE)))?);
    }
    let mut message = to_bytes(
        at_start,
        &(fixed, u32::try_from(elements.len()).unwrap_or(u32::MAX)),
    )?
    .to_vec();
    message.extend_from_slice(&elements);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend_from_slice(&content);
    Ok(message)
}

/// The lengths of a message's header, with what fills it up, and of its body.
fn lengths(fixed: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = fixed.get(at..at + 4)?.try_into().ok()?;
        let number = match fixed.first()? {
            b'l' => u32::from_le_bytes(bytes),
            b'B' => u32::from_be_bytes(bytes),
            _ => return None,
        };
        usize::try_from(number).ok().filter(|&n| n <= LONGEST)
    };
    Some(((FIXED + number(12)?).next_multiple_of(8), number(4)?))
}

fn decode(header: &[u8]) -> zbus::Result<Message> {
    type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);
    let own = match NATIVE_ENDIAN {
        Endian::Little => b'l',
        Endian::Big => b'B',
    };
    let swapped = header.first() != Some(&own);
    let data = Data::new(header, Context::new(endian(swapped), 0));
    let (header, _): (Header<'_>, _) = data.deserialize()?;
    let (_, kind, .., fields) = header;
    let mut message = Message {
        kind,
        swapped,
        ..Message::default()
    };
    for (field, value) in fields {
        match (field, value) {
            (MEMBER, Variant::Str(text)) => message.member = text.to_string(),
            (ERROR_NAME, Variant::Str(text)) => message.error = text.to_string(),
            (REPLY_SERIAL, Variant::U32(serial)) => message.reply_to = serial,
            _ => {}
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_what_the_specification_says() {
        let call = encode(7, "a.b", "/p", "i.f", "M", &("x", 5u32)).unwrap();
        let (header, body) = lengths(&call).unwrap();
        assert_eq!(call.len(), header + body);
        let read = decode(&call).unwrap();
        assert_eq!((read.kind, read.member.as_str()), (CALL, "M"));
        let message = Message {
            body: call[header..].to_vec(),
            ..Message::default()
        };
        assert_eq!(
            message.read::<(String, u32)>().unwrap(),
            ("x".to_owned(), 5)
        );
        assert!(
            call.windows(5)
                .any(|part| part == b"\x02su\0\0" || part == b"\x01g\0\x02s")
        );
        // Without arguments there is no signature.
        let empty = encode(1, "a.b", "/p", "i.f", "M", &()).unwrap();
        assert_eq!(lengths(&empty).unwrap(), (empty.len(), 0));
        assert!(lengths(b"HTTP/1.1 400 Bad").is_none());
    }

    /// A service that does what it is told in advance, byte by byte.
    #[test]
    fn answers_and_signals_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let message = |kind: u8, field: (u8, Variant<'static>), body: &str| {
            let context = Context::new(NATIVE_ENDIAN, 0);
            let content = to_bytes(context, body).unwrap();
            let order = encode(1, "a.b", "/p", "i.f", "M", &()).unwrap()[0];
            let length = u32::try_from(content.len()).unwrap();
            let header = (order, kind, 0u8, 1u8, length, 9u32, vec![field]);
            let mut bytes = to_bytes(context, &header).unwrap().to_vec();
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend_from_slice(&content);
            bytes
        };
        let service = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"DATA\r\nOK 0123\r\n").unwrap();
            let all = [
                message(SIGNAL, (MEMBER, "Early".into()), "first"),
                message(RETURN, (REPLY_SERIAL, 77u32.into()), "not this one"),
                message(RETURN, (REPLY_SERIAL, 1u32.into()), "yes"),
                message(SIGNAL, (MEMBER, "Late".into()), "second"),
            ];
            peer.write_all(&all.concat()).unwrap();
            let mut said = Vec::new();
            peer.read_to_end(&mut said).unwrap();
            said
        });
        let address = Address {
            socket,
            brokered: false,
        };
        let mut bus = Bus::connect(address, "a.b").unwrap();
        let answer = bus.call("/p", "i.f", "M", &"hello").unwrap();
        assert_eq!(answer.read::<String>().unwrap(), "yes");
        let next = |bus: &mut Bus| {
            bus.signal(|name, message| Ok(Some((name.to_owned(), message.read::<String>()?))))
                .unwrap()
        };
        assert_eq!(next(&mut bus), ("Early".to_owned(), "first".to_owned()));
        assert_eq!(next(&mut bus), ("Late".to_owned(), "second".to_owned()));
        drop(bus);
        let said = service.join().unwrap();
        assert!(said.starts_with(b"\0AUTH EXTERNAL\r\n"), "{said:?}");
    }
}
