//! Join tokens as text: `SWARM-1-<SHA-256 of the CA>-<id>-<secret and checksum>`, all in lower-case base32 without
//! padding. The CA's hash lets the one who joins know the cluster before it says anything; the cluster keeps the hash of
//! the secret only. Every changed character is noticed: each text has one spelling, and a checksum is in it.

use crate::world::World;
use data_encoding::{BASE32_NOPAD, Encoding};
use ring::digest::{SHA256, digest};
use std::sync::LazyLock;
use swarm_api::{Error, Result};

const PREFIX: &str = "SWARM-1";
const ID: usize = 5;
const SECRET: usize = 20;
const CHECK: usize = 5;

static TEXT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE32_NOPAD.specification();
    specification.symbols = specification.symbols.to_lowercase();
    // Lower-case symbols are as distinct as upper-case ones.
    specification.encoding().unwrap_or(BASE32_NOPAD)
});

/// A token, complete.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// SHA-256 of the CA's certificate.
    pub(crate) ca: [u8; 32],
    /// Its public id.
    pub(crate) id: String,
    secret: [u8; SECRET],
}

impl Token {
    /// A new one for the cluster with this CA.
    pub(crate) fn generate(ca: &[u8], world: &World) -> Result<Self> {
        Ok(Self {
            ca: sha256(ca),
            id: TEXT.encode(&world.random::<ID>()?),
            secret: world.random()?,
        })
    }

    /// What the cluster keeps of the secret.
    pub(crate) fn hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// The token for people.
    pub(crate) fn text(&self) -> String {
        let body = format!("{PREFIX}-{}-{}", TEXT.encode(&self.ca), self.id);
        let mut last = self.secret.to_vec();
        last.extend_from_slice(&checksum(&body, &self.secret));
        format!("{body}-{}", TEXT.encode(&last))
    }

    /// What is sent to a member of the cluster once that is known to be one.
    pub(crate) fn proof(&self) -> String {
        format!("{}-{}", self.id, TEXT.encode(&self.secret))
    }

    /// Reads what [`Token::proof`] made: the id and the hash of the secret.
    pub(crate) fn read_proof(proof: &str) -> Result<(String, [u8; 32])> {
        let malformed = || {
            Error::Denied(
                "the token's secret part is malformed; use the token as it was printed".into(),
            )
        };
        let (id, secret) = proof.split_once('-').ok_or_else(malformed)?;
        let secret = TEXT.decode(secret.as_bytes()).map_err(|_| malformed())?;
        Ok((id.to_owned(), sha256(&secret)))
    }

    /// Reads a token that a person gave.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what a token looks like, or that this one is damaged.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let malformed = || {
            Error::Invalid(format!(
                "this is not a join token: one looks like {PREFIX}-<52 characters>-<8 characters>-<40 characters>; \
                 get one with `swarmctl token create` in the cluster"
            ))
        };
        let rest = text.strip_prefix(PREFIX).and_then(|r| r.strip_prefix('-'));
        let parts: Vec<&str> = rest.ok_or_else(malformed)?.split('-').collect();
        let [ca, id, last] = parts[..] else {
            return Err(malformed());
        };
        let bytes = |part: &str| TEXT.decode(part.as_bytes()).map_err(|_| malformed());
        let ca: [u8; 32] = bytes(ca)?.try_into().map_err(|_| malformed())?;
        if bytes(id)?.len() != ID {
            return Err(malformed());
        }
        let last = bytes(last)?;
        let (secret, check) = last.split_at_checked(SECRET).ok_or_else(malformed)?;
        let secret: [u8; SECRET] = secret.try_into().map_err(|_| malformed())?;
        let token = Self {
            ca,
            id: id.to_owned(),
            secret,
        };
        let body = format!("{PREFIX}-{}-{id}", TEXT.encode(&ca));
        if check != checksum(&body, &secret) {
            return Err(Error::Invalid(
                "the join token is damaged: its checksum does not match; copy all of it as it was printed".into(),
            ));
        }
        Ok(token)
    }
}

/// Compares two hashes in a time that does not depend on where they differ.
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn checksum(body: &str, secret: &[u8]) -> [u8; CHECK] {
    let hash = sha256(&[body.as_bytes(), b"-", secret].concat());
    let mut out = [0; CHECK];
    out.copy_from_slice(&hash[..CHECK]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_made() {
        let token = Token::generate(b"ca", &World::system("")).unwrap();
        let read = Token::parse(&format!(" {}\n", token.text())).unwrap();
        assert!(read == token);
        let (id, hash) = Token::read_proof(&read.proof()).unwrap();
        assert_eq!((id, hash), (token.id.clone(), token.hash()));
    }

    #[test]
    fn any_changed_or_lost_character_is_noticed_and_the_message_speaks_of_the_token() {
        let text = Token::generate(b"ca", &World::system("")).unwrap().text();
        for at in 0..text.len() {
            for replacement in ["a", "b", "7", "A", "-", "ü", ""] {
                if &text[at..=at] == replacement {
                    continue;
                }
                let forged = format!("{}{replacement}{}", &text[..at], &text[at + 1..]);
                let Err(refusal) = Token::parse(&forged) else {
                    panic!("{forged} passed for {text}");
                };
                assert!(refusal.to_string().contains("token"), "{refusal}");
            }
        }
        for rubbish in ["", "rubbish", "SWARM-1", "SWARM-1---", "SWARM-2-a-b-c"] {
            assert!(Token::parse(rubbish).is_err());
        }
    }
}
