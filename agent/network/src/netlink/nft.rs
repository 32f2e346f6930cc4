//! A [`Ruleset`] as an nf_tables transaction, and the table in the kernel as a [`TableState`]
//! (`linux/netfilter/nf_tables.h`; `nft --debug=netlink` shows the same).

use std::net::{IpAddr, SocketAddr};

use super::abi::*;
use super::socket::Netlink;
use super::wire::{Attrs, Message, attr, be32_at, text};
use crate::error::Result;
use crate::rules::{Chain, Expr, Hook, Rule, Ruleset, TABLE, TableState};

/// Elements per message: an attribute, the list of elements, holds at most 64 KiB.
const ELEMENTS: usize = 1000;
/// `NFTNL_UDATA_RULE_COMMENT`: what `nft` writes a rule's comment as.
const COMMENT: u8 = 0;
/// `NFTNL_UDATA_SET_KEYBYTEORDER`: without it `nft` would show host-order keys reversed.
const KEY_BYTE_ORDER: u8 = 0;
const HOST_ENDIAN: u32 = 1;

/// nft's own numbers for the types of set elements; the kernel only stores them.
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;
const TYPE_BITS: u32 = 6;

/// Replaces the table in one transaction; `None` removes it.
pub(crate) fn replace(netfilter: &mut Netlink, rules: Option<&Ruleset>) -> Result<()> {
    let named = || Attrs::new().str(NFTA_TABLE_NAME, TABLE);
    let add = || message(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, named());
    // Only an existing table can be deleted, so it is made first, in the same transaction.
    let mut requests = vec![add(), message(NFT_MSG_DELTABLE, 0, named())];
    if let Some(rules) = rules {
        requests.push(add());
        requests.extend(rules.chains.iter().map(chain));
        let mut set_id = 0;
        for chain in &rules.chains {
            for rule in &chain.rules {
                requests.extend(self::rule(chain.name, rule, &mut set_id));
            }
        }
    }
    let frame = |kind| {
        Message::new(
            kind,
            0,
            &nfgenmsg(libc::AF_UNSPEC, NFNL_SUBSYS_NFTABLES),
            Attrs::new(),
        )
    };
    let outcome = netfilter.transaction(
        &frame(NFNL_MSG_BATCH_BEGIN),
        &requests,
        &frame(NFNL_MSG_BATCH_END),
    )?;
    outcome.map_err(|(index, refusal)| {
        let what =
            requests
                .get(index)
                .map_or("the transaction", |request| match request.kind & 0xff {
                    NFT_MSG_NEWCHAIN => "a chain",
                    NFT_MSG_NEWRULE => "a rule",
                    NFT_MSG_NEWSET | NFT_MSG_NEWSETELEM => "a set",
                    _ => "the table itself",
                });
        refusal.into_error(format!("replace nftables table inet {TABLE}, at {what}"))
    })
}

/// Reads the table; `None` if there is none.
pub(crate) fn observe(netfilter: &mut Netlink) -> Result<Option<TableState>> {
    let tables = netfilter.dump(
        &message(NFT_MSG_GETTABLE, 0, Attrs::new()),
        "list nftables tables",
    )?;
    if !tables
        .iter()
        .any(|table| named(table, NFTA_TABLE_NAME, TABLE))
    {
        return Ok(None);
    }
    let mut state = TableState::default();
    for chain in netfilter.dump(
        &message(NFT_MSG_GETCHAIN, 0, Attrs::new()),
        "list nftables chains",
    )? {
        let Some(name) =
            attr(body(&chain), NFTA_CHAIN_NAME).filter(|_| named(&chain, NFTA_CHAIN_TABLE, TABLE))
        else {
            continue;
        };
        state
            .chains
            .insert(text(name), (hook(body(&chain)), Vec::new()));
    }
    let of_table = Attrs::new().str(NFTA_RULE_TABLE, TABLE);
    for rule in netfilter.dump(
        &message(NFT_MSG_GETRULE, 0, of_table),
        "list nftables rules",
    )? {
        let Some(chain) =
            attr(body(&rule), NFTA_RULE_CHAIN).filter(|_| named(&rule, NFTA_RULE_TABLE, TABLE))
        else {
            continue;
        };
        let comment = attr(body(&rule), NFTA_RULE_USERDATA)
            .map(comment)
            .unwrap_or_default();
        if let Some((_, rules)) = state.chains.get_mut(&text(chain)) {
            rules.push(comment);
        }
    }
    Ok(Some(state))
}

fn body(object: &[u8]) -> &[u8] {
    object.get(4..).unwrap_or_default()
}

fn named(object: &[u8], kind: u16, name: &str) -> bool {
    // struct nfgenmsg begins with the family: others may have a table of the same name.
    i32::from(object.first().copied().unwrap_or_default()) == libc::NFPROTO_INET
        && attr(body(object), kind).is_some_and(|value| text(value) == name)
}

fn hook(chain: &[u8]) -> Option<Hook> {
    let hook = attr(chain, NFTA_CHAIN_HOOK)?;
    Some(Hook {
        kind: attr(chain, NFTA_CHAIN_TYPE).map(text).unwrap_or_default(),
        number: be32_at(attr(hook, NFTA_HOOK_HOOKNUM)?, 0)?,
        priority: be32_at(attr(hook, NFTA_HOOK_PRIORITY)?, 0)?.cast_signed(),
        policy: attr(chain, NFTA_CHAIN_POLICY)
            .and_then(|policy| be32_at(policy, 0))
            .unwrap_or_default(),
    })
}

/// The comment in a rule's user data: type, length, value, as libnftnl writes them.
fn comment(mut data: &[u8]) -> String {
    while let [kind, len, rest @ ..] = data {
        let (value, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        if *kind == COMMENT {
            return text(value);
        }
        data = rest;
    }
    String::new()
}

/// `struct nfgenmsg`.
fn nfgenmsg(family: i32, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family.to_le_bytes()[0], 0, high, low]
}

fn message(kind: u16, flags: libc::c_int, attrs: Attrs) -> Message {
    Message::new(
        NFNL_SUBSYS_NFTABLES << 8 | kind,
        flags,
        &nfgenmsg(libc::NFPROTO_INET, 0),
        attrs,
    )
}

fn chain(chain: &Chain) -> Message {
    let mut attrs = Attrs::new()
        .str(NFTA_CHAIN_TABLE, TABLE)
        .str(NFTA_CHAIN_NAME, chain.name);
    if let Some(hook) = &chain.hook {
        let place = Attrs::new()
            .be32(NFTA_HOOK_HOOKNUM, hook.number)
            .be32(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
        attrs = attrs
            .nest(NFTA_CHAIN_HOOK, place)
            .be32(NFTA_CHAIN_POLICY, hook.policy)
            .str(NFTA_CHAIN_TYPE, &hook.kind);
    }
    message(NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, attrs)
}

/// A rule's messages: the anonymous sets that it uses, then itself.
fn rule(chain: &str, rule: &Rule, set_id: &mut u32) -> Vec<Message> {
    let mut out = Encoder {
        requests: Vec::new(),
        expressions: Attrs::new(),
        set_id,
    };
    for expr in &rule.0 {
        out.expr(expr);
    }
    let comment = [rule.comment().as_bytes(), &[0]].concat();
    let comment = [
        &[COMMENT, u8::try_from(comment.len()).unwrap_or_default()],
        &comment[..],
    ]
    .concat();
    let attrs = Attrs::new()
        .str(NFTA_RULE_TABLE, TABLE)
        .str(NFTA_RULE_CHAIN, chain)
        .nest(NFTA_RULE_EXPRESSIONS, out.expressions)
        .bytes(NFTA_RULE_USERDATA, &comment);
    out.requests.push(message(
        NFT_MSG_NEWRULE,
        libc::NLM_F_CREATE | libc::NLM_F_APPEND,
        attrs,
    ));
    out.requests
}

struct Encoder<'a> {
    requests: Vec<Message>,
    expressions: Attrs,
    set_id: &'a mut u32,
}

impl Encoder<'_> {
    fn expr(&mut self, expr: &Expr) {
        let a = Attrs::new;
        match expr {
            // NFTA_META_DREG, NFTA_META_KEY; NFTA_CT_DREG, NFTA_CT_KEY.
            Expr::Meta(key) => self.push("meta", a().be32(1, NFT_REG_1).be32(2, *key)),
            Expr::Ct(key) => self.push("ct", a().be32(1, NFT_REG_1).be32(2, *key)),
            // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN.
            Expr::Payload { base, offset, len } => {
                self.push(
                    "payload",
                    a().be32(1, NFT_REG_1)
                        .be32(2, *base)
                        .be32(3, *offset)
                        .be32(4, *len),
                );
            }
            // NFTA_FIB_DREG, _RESULT: NFT_FIB_RESULT_ADDRTYPE, _FLAGS: NFTA_FIB_F_DADDR.
            Expr::FibDestinationType => {
                self.push("fib", a().be32(1, NFT_REG_1).be32(2, 3).be32(3, 2));
            }
            // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR.
            Expr::And(mask) => {
                let len = u32::try_from(mask.len()).unwrap_or_default();
                let registers = a().be32(1, NFT_REG_1).be32(2, NFT_REG_1).be32(3, len);
                self.push(
                    "bitwise",
                    registers
                        .nest(4, value(mask))
                        .nest(5, value(&vec![0; mask.len()])),
                );
            }
            Expr::Is(data) => self.compare(0, data),
            Expr::IsNot(data) => self.compare(1, data),
            Expr::In(keys) => self.look_up(keys.iter().map(Vec::as_slice).collect(), 0),
            Expr::NotIn(keys) => self.look_up(keys.iter().map(Vec::as_slice).collect(), 1),
            Expr::Balance(backends) => self.balance(backends),
            Expr::Masquerade => self.push("masq", a()),
            Expr::Accept => self.verdict(NF_ACCEPT, None),
            Expr::Drop => self.verdict(NF_DROP, None),
            Expr::Return => self.verdict(NFT_RETURN, None),
            Expr::Jump(chain) => self.verdict(NFT_JUMP, Some(chain)),
        }
    }

    fn push(&mut self, name: &str, data: Attrs) {
        let expr = Attrs::new()
            .str(NFTA_EXPR_NAME, name)
            .nest(NFTA_EXPR_DATA, data);
        self.expressions = std::mem::take(&mut self.expressions).nest(NFTA_LIST_ELEM, expr);
    }

    /// NFTA_CMP_SREG, _OP, _DATA.
    fn compare(&mut self, op: u32, data: &[u8]) {
        self.push(
            "cmp",
            Attrs::new()
                .be32(1, NFT_REG_1)
                .be32(2, op)
                .nest(3, value(data)),
        );
    }

    /// NFTA_IMMEDIATE_DREG, _DATA.
    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        let mut verdict = Attrs::new().be32(NFTA_VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            verdict = verdict.str(NFTA_VERDICT_CHAIN, chain);
        }
        let data = Attrs::new().nest(NFTA_DATA_VERDICT, verdict);
        self.push(
            "immediate",
            Attrs::new().be32(1, NFT_REG_VERDICT).nest(2, data),
        );
    }

    /// NFTA_LOOKUP_SET, _SREG, _SET_ID, _FLAGS: NFT_LOOKUP_F_INV.
    fn look_up(&mut self, keys: Vec<&[u8]>, inverted: u32) {
        let len = keys.first().map_or(0, |key| key.len());
        let kind = match len {
            4 => TYPE_IPV4,
            16 if keys.iter().any(|key| key.starts_with(b"sw-")) => TYPE_IFNAME,
            16 => TYPE_IPV6,
            _ => TYPE_INTEGER,
        };
        let elements = keys
            .into_iter()
            .map(|key| Attrs::new().nest(NFTA_SET_ELEM_KEY, value(key)))
            .collect();
        let id = self.set("__set%d", 0, (kind, len), None, elements);
        let set = Attrs::new()
            .str(1, "__set%d")
            .be32(2, NFT_REG_1)
            .be32(4, id)
            .be32(5, inverted);
        self.push("lookup", set);
    }

    /// A random number, a map from it to an address and a port, and the translation to that.
    fn balance(&mut self, backends: &[SocketAddr]) {
        let v4 = backends.first().is_none_or(SocketAddr::is_ipv4);
        let (family, kind, words) = if v4 {
            (libc::NFPROTO_IPV4, TYPE_IPV4, 1)
        } else {
            (libc::NFPROTO_IPV6, TYPE_IPV6, 4)
        };
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        // NFTA_NG_DREG, _MODULUS, _TYPE: NFT_NG_RANDOM.
        self.push(
            "numgen",
            Attrs::new().be32(1, NFT_REG_1).be32(2, count).be32(3, 1),
        );
        let elements = backends.iter().zip(0_u32..).map(|(backend, index)| {
            let mut data = match backend.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            data.extend(backend.port().to_be_bytes());
            data.extend([0; 2]);
            Attrs::new()
                .nest(NFTA_SET_ELEM_KEY, value(&index.to_ne_bytes()))
                .nest(NFTA_SET_ELEM_DATA, value(&data))
        });
        let data = (kind << TYPE_BITS | TYPE_SERVICE, (words + 1) * 4);
        let id = self.set(
            "__map%d",
            NFT_SET_MAP,
            (TYPE_INTEGER, 4),
            Some(data),
            elements.collect(),
        );
        // NFTA_LOOKUP_SET, _SREG, _DREG, _SET_ID.
        self.push(
            "lookup",
            Attrs::new()
                .str(1, "__map%d")
                .be32(2, NFT_REG_1)
                .be32(3, NFT_REG_1)
                .be32(4, id),
        );
        // NFTA_NAT_TYPE: NFT_NAT_DNAT, _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN.
        let family = u32::try_from(family).unwrap_or_default();
        let target = Attrs::new()
            .be32(1, 1)
            .be32(2, family)
            .be32(3, NFT_REG_1)
            .be32(5, NFT_REG32_00 + words);
        self.push("nat", target);
    }

    /// An anonymous set or map; returns its number in this transaction.
    fn set(
        &mut self,
        name: &str,
        flags: u32,
        (key_type, key_len): (u32, usize),
        data: Option<(u32, u32)>,
        elements: Vec<Attrs>,
    ) -> u32 {
        *self.set_id += 1;
        let id = *self.set_id;
        let size = u32::try_from(elements.len()).unwrap_or(u32::MAX);
        let mut attrs = Attrs::new()
            .str(NFTA_SET_TABLE, TABLE)
            .str(NFTA_SET_NAME, name)
            .be32(NFTA_SET_FLAGS, NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | flags)
            .be32(NFTA_SET_KEY_TYPE, key_type)
            .be32(NFTA_SET_KEY_LEN, u32::try_from(key_len).unwrap_or_default());
        if let Some((data_type, data_len)) = data {
            attrs = attrs
                .be32(NFTA_SET_DATA_TYPE, data_type)
                .be32(NFTA_SET_DATA_LEN, data_len);
        }
        if data.is_some() || key_type == TYPE_IFNAME {
            let order = [&[KEY_BYTE_ORDER, 4][..], &HOST_ENDIAN.to_ne_bytes()].concat();
            attrs = attrs.bytes(NFTA_SET_USERDATA, &order);
        }
        attrs = attrs
            .nest(NFTA_SET_DESC, Attrs::new().be32(NFTA_SET_DESC_SIZE, size))
            .be32(NFTA_SET_ID, id);
        self.requests
            .push(message(NFT_MSG_NEWSET, libc::NLM_F_CREATE, attrs));
        for part in elements.chunks(ELEMENTS) {
            let list = part.iter().fold(Attrs::new(), |list, element| {
                list.nest(NFTA_LIST_ELEM, element.clone())
            });
            let attrs = Attrs::new()
                .str(NFTA_SET_ELEM_LIST_TABLE, TABLE)
                .str(NFTA_SET_ELEM_LIST_SET, name)
                .be32(NFTA_SET_ELEM_LIST_SET_ID, id)
                .nest(NFTA_SET_ELEM_LIST_ELEMENTS, list);
            self.requests
                .push(message(NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, attrs));
        }
        id
    }
}

fn value(data: &[u8]) -> Attrs {
    Attrs::new().bytes(NFTA_DATA_VALUE, data)
}
