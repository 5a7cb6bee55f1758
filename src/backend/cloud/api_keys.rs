//! API keys: `kahn_live_sk_<8: the tenant's prefix>_<43: secret><6: checksum>`, all base62.
//!
//! The checksum turns a mistyped key away without a query. What is stored is the SHA-256 of the whole key: the secret has
//! 256 random bits, so a slow hash would only be a way to keep the server busy.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// What every key begins with; no other token does.
pub(super) const START: &str = "kahn_live_sk_";
const PREFIX_LENGTH: usize = 8;
const SECRET_LENGTH: usize = 43;
const CHECKSUM_LENGTH: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The SHA-256 of a key.
pub(super) type KeyHash = [u8; 32];

/// A key that is well-formed: where to look, and what must be there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Presented<'a> {
    /// Leads to the tenant's keys.
    pub(super) prefix: &'a str,
    /// What one of them must have.
    pub(super) hash: KeyHash,
}

/// A new key. Its text is shown once and kept nowhere.
pub(super) struct NewKey {
    /// The whole key.
    pub(super) text: String,
    /// What is stored.
    pub(super) hash: KeyHash,
}

/// Reads a key; `None` for anything that no kahn ever made.
pub(super) fn parse(text: &str) -> Option<Presented<'_>> {
    let rest = text.strip_prefix(START)?;
    let (prefix, secret) = rest.split_once('_')?;
    let fits = prefix.len() == PREFIX_LENGTH
        && secret.len() == SECRET_LENGTH + CHECKSUM_LENGTH
        && prefix.bytes().chain(secret.bytes()).all(|byte| byte.is_ascii_alphanumeric());
    if !fits {
        return None;
    }
    let (body, given) = text.split_at(text.len() - CHECKSUM_LENGTH);
    (given.as_bytes() == checksum(body)).then(|| Presented { prefix, hash: hash(text) })
}

/// Makes a key of the tenant with this prefix.
pub(super) fn make(prefix: &str) -> Result<NewKey, getrandom::Error> {
    let mut text = format!("{START}{prefix}_{}", random_base62(SECRET_LENGTH)?);
    let checksum = checksum(&text);
    text.extend(checksum.iter().map(|byte| char::from(*byte)));
    let hash = hash(&text);
    Ok(NewKey { text, hash })
}

/// A new tenant's prefix: random, so that it says nothing about the tenant.
pub(super) fn make_prefix() -> Result<String, getrandom::Error> {
    random_base62(PREFIX_LENGTH)
}

/// The place of the stored hash that equals this one. Every hash is compared to its end, and when there is none, one that
/// fits nothing: how long it takes tells nothing about what is stored.
pub(super) fn find(presented: &KeyHash, stored: &[&[u8]]) -> Option<usize> {
    let mut found = Choice::from(0);
    let mut place = 0_u64;
    for (at, candidate) in stored.iter().enumerate() {
        let equal = candidate.ct_eq(presented.as_slice());
        place.conditional_assign(&(at as u64), equal);
        found |= equal;
    }
    if stored.is_empty() {
        found |= [0_u8; 32].ct_eq(presented) & Choice::from(0);
    }
    bool::from(found).then_some(usize::try_from(place).unwrap_or_default())
}

fn hash(text: &str) -> KeyHash {
    Sha256::digest(text).into()
}

fn checksum(body: &str) -> [u8; CHECKSUM_LENGTH] {
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = [0; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits
}

/// Uniform: bytes from 248 on are drawn again, since 256 is no multiple of 62.
fn random_base62(length: usize) -> Result<String, getrandom::Error> {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes)?;
        let wanted = length - text.len();
        let digits = bytes.iter().filter(|byte| **byte < 248).take(wanted);
        text.extend(digits.map(|byte| char::from(BASE62[usize::from(byte % 62)])));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{find, make, make_prefix, parse};

    #[test]
    fn a_key_is_read_back_and_a_typo_is_not() {
        let prefix = make_prefix().expect("randomness");
        let key = make(&prefix).expect("randomness");
        assert_eq!(key.text.len(), 13 + 8 + 1 + 43 + 6);
        let presented = parse(&key.text).expect("a fresh key");
        assert_eq!((presented.prefix, presented.hash), (prefix.as_str(), key.hash));
        for at in 0..key.text.len() {
            let mut typo = key.text.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(parse(std::str::from_utf8(&typo).expect("ASCII")), None, "typo at {at}");
        }
        for other in ["", "kahn_live_sk_", &key.text[..70], &format!("{}0", key.text), &format!(" {}", key.text)] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_fitting_hash_is_found_at_its_place() {
        let hashes: [&[u8]; 3] = [&[1; 32], &[2; 32], &[3; 32]];
        assert_eq!(find(&[2; 32], &hashes), Some(1));
        assert_eq!(find(&[3; 32], &hashes), Some(2));
        assert_eq!(find(&[9; 32], &hashes), None);
        assert_eq!(find(&[0; 32], &[]), None);
        assert_eq!(find(&[1; 32], &[&[1; 31]]), None);
    }
}
