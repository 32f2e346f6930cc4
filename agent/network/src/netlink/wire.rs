//! Netlink messages and attributes as bytes (`netlink(7)`, `rtnetlink(7)`). Pure.

/// Set on an attribute that holds attributes.
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// Attributes in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attrs(Vec<u8>);

impl Attrs {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Attributes behind a fixed structure, as `VETH_INFO_PEER` holds them.
    pub(crate) fn behind(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        debug_assert_eq!(
            usize::from(len),
            4 + value.len(),
            "an attribute holds at most 64 KiB"
        );
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn str(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn be16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(self, kind: u16, value: Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &value.0)
    }

    pub(crate) fn append(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

/// A request: type, flags, and what follows the header. Length and sequence number are filled in when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// `flags` beside `NLM_F_REQUEST`; `fixed` is the type's structure, such as `struct ifinfomsg`.
    pub(crate) fn new(kind: u16, flags: libc::c_int, fixed: &[u8], attrs: Attrs) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        Self {
            kind,
            flags,
            body: [fixed, &attrs.0].concat(),
        }
    }

    pub(crate) fn write(&self, seq: u32, out: &mut Vec<u8>) {
        let len = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        out.extend(len.to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend(self.flags.to_ne_bytes());
        out.extend(seq.to_ne_bytes());
        out.extend([0; 4]);
        out.extend(&self.body);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// A message received.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) body: &'a [u8],
}

/// The messages in a datagram.
pub(crate) fn messages(mut data: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(data, 0)?).ok()?;
        let message = Received {
            kind: u16_at(data, 4)?,
            flags: u16_at(data, 6)?,
            seq: u32_at(data, 8)?,
            body: data.get(HEADER..len)?,
        };
        data = data.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in a message, without their flags.
pub(crate) fn attrs(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(data, 0)?);
        let (kind, value) = (u16_at(data, 2)? & NLA_TYPE_MASK, data.get(4..len)?);
        data = data.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One attribute.
pub(crate) fn attr(data: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(data)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A text attribute, without its terminating zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn be32_at(data: &[u8], at: usize) -> Option<u32> {
    u32_at(data, at).map(u32::from_be)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(values in prop::collection::vec((1_u16..100, prop::collection::vec(any::<u8>(), 0..40)), 0..9)) {
            let written = values.iter().fold(Attrs::new(), |attrs, (kind, value)| attrs.bytes(*kind, value));
            let mut datagram = Vec::new();
            Message::new(7, 0, &[1, 2, 3, 4], written.clone()).write(5, &mut datagram);
            Message::new(8, 0, &[], Attrs::new()).write(6, &mut datagram);
            let read: Vec<_> = messages(&datagram).collect();
            prop_assert_eq!(read.len(), 2);
            prop_assert_eq!((read[0].kind, read[0].seq, read[1].kind), (7, 5, 8));
            let got: Vec<_> = attrs(&read[0].body[4..]).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(got, values);
        }

        #[test]
        fn garbage_is_read_without_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&data).take(100) {
                attrs(message.body).take(100).for_each(drop);
            }
        }
    }
}
