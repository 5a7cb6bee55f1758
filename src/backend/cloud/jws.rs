//! Signed tokens: one strict parse, and the signature under a given key. What the claims say is `claims.rs`'s affair.
//!
//! The library below checks less than one would think: it lets keys of any length, points of small order and parts of wrong
//! lengths come near the arithmetic. So a key is read here, byte by byte, and only then handed on.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::JsonWebKey as _;
use openidconnect::core::{CoreJsonCurveType, CoreJsonWebKey, CoreJwsSigningAlgorithm};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How deep a header or claims may be nested.
const DEEPEST: usize = 32;
/// Bits of an RSA modulus: fewer can be factored, more take the server's time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// The `y` of the points of small order, little-endian: anybody can sign for these.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    {
        let mut minus_one = FIELD;
        minus_one[0] -= 1;
        minus_one
    },
];
/// 2^255 - 19, little-endian.
const FIELD: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};
/// The order of Ed25519's base point, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Why a token, a key or a signature does not count. For the log; a client is told none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Not header, claims and signature.
    #[error("it has not three parts")]
    NotThreeParts,
    /// A part that is not canonical.
    #[error("its {0} is no canonical base64url")]
    NotBase64(&'static str),
    /// A part that is not JSON, or not as strictly as it has to be.
    #[error("its {0} is no JSON object without repeated names, at most {DEEPEST} deep")]
    NotAnObject(&'static str),
    /// A member of the header.
    #[error("its header's {0} cannot be accepted")]
    Header(&'static str),
    /// A member of the key.
    #[error("the key's {0} cannot be accepted")]
    Key(&'static str),
    /// A key for another algorithm.
    #[error("the key is not for this algorithm")]
    WrongAlgorithm,
    /// It was not signed with this key.
    #[error("its signature does not verify")]
    Signature,
}

/// An algorithm that is let in. No PS*, no HS*, no none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Ed25519, by its old name and its new one.
    EdDsa,
    /// P-256 with SHA-256.
    Es256,
    /// P-384 with SHA-384.
    Es384,
    /// PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// PKCS #1 v1.5 with SHA-512.
    Rs512,
}

impl Algorithm {
    /// By its name in headers and keys.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "EdDSA" | "Ed25519" => Self::EdDsa,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            _ => return None,
        })
    }

    fn of_library(self) -> CoreJwsSigningAlgorithm {
        match self {
            Self::EdDsa => CoreJwsSigningAlgorithm::EdDsa,
            Self::Es256 => CoreJwsSigningAlgorithm::EcdsaP256Sha256,
            Self::Es384 => CoreJwsSigningAlgorithm::EcdsaP384Sha384,
            Self::Rs256 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
            Self::Rs384 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
            Self::Rs512 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
        }
    }
}

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
    P384,
    Rsa {
        /// Bytes of its modulus.
        size: usize,
    },
}

impl Kind {
    fn fits(self, algorithm: Algorithm) -> bool {
        matches!(
            (self, algorithm),
            (Self::Ed25519, Algorithm::EdDsa)
                | (Self::P256, Algorithm::Es256)
                | (Self::P384, Algorithm::Es384)
                | (Self::Rsa { .. }, Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512)
        )
    }

    fn signature_size(self) -> usize {
        match self {
            Self::Ed25519 | Self::P256 => 64,
            Self::P384 => 96,
            Self::Rsa { size } => size,
        }
    }
}

/// A public key that signatures may be checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    kid: Option<String>,
    kind: Kind,
    /// What it says itself that it is for.
    bound_to: Option<Algorithm>,
    public: CoreJsonWebKey,
}

impl Key {
    /// Reads a JWK. Whatever is odd about it is a reason not to.
    pub(super) fn read(jwk: &Map<String, Value>) -> Result<Self, Fault> {
        let kid = match jwk.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Fault::Key("kid")),
        };
        if jwk.get("use").is_some_and(|purpose| purpose != "sig") {
            return Err(Fault::Key("use"));
        }
        match jwk.get("key_ops") {
            None => {}
            Some(Value::Array(ops)) if ops.iter().any(|op| op == "verify") => {}
            Some(_) => return Err(Fault::Key("key_ops")),
        }
        let bound_to = match jwk.get("alg") {
            None => None,
            Some(Value::String(name)) => Some(Algorithm::named(name).ok_or(Fault::Key("alg"))?),
            Some(_) => return Err(Fault::Key("alg")),
        };
        let (kind, public) = material(jwk)?;
        if bound_to.is_some_and(|algorithm| !kind.fits(algorithm)) {
            return Err(Fault::Key("alg"));
        }
        Ok(Self { kid, kind, bound_to, public })
    }

    /// What tokens call it.
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether this is the signature of these bytes.
    pub(super) fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> Result<(), Fault> {
        if !self.kind.fits(algorithm) || self.bound_to.is_some_and(|own| own != algorithm) {
            return Err(Fault::WrongAlgorithm);
        }
        if signature.len() != self.kind.signature_size() {
            return Err(Fault::Signature);
        }
        if self.kind == Kind::Ed25519 && !is_strict_ed25519(signature) {
            return Err(Fault::Signature);
        }
        self.public.verify_signature(&algorithm.of_library(), signed, signature).map_err(|_| Fault::Signature)
    }
}

/// The key's numbers, in the lengths that they have to have.
fn material(jwk: &Map<String, Value>) -> Result<(Kind, CoreJsonWebKey), Fault> {
    let part = |name: &'static str| match jwk.get(name) {
        Some(Value::String(text)) => decode(text, name).map_err(|_| Fault::Key(name)),
        _ => Err(Fault::Key(name)),
    };
    let text = |name: &'static str| jwk.get(name).and_then(Value::as_str).ok_or(Fault::Key(name));
    match text("kty")? {
        "OKP" => {
            if text("crv")? != "Ed25519" {
                return Err(Fault::Key("crv"));
            }
            let x = part("x")?;
            if !is_sound_point(&x) {
                return Err(Fault::Key("x"));
            }
            Ok((Kind::Ed25519, CoreJsonWebKey::new_okp(x, CoreJsonCurveType::Ed25519, None)))
        }
        "EC" => {
            let (kind, curve, size) = match text("crv")? {
                "P-256" => (Kind::P256, CoreJsonCurveType::P256, 32),
                "P-384" => (Kind::P384, CoreJsonCurveType::P384, 48),
                _ => return Err(Fault::Key("crv")),
            };
            let (x, y) = (part("x")?, part("y")?);
            // The library puts them one behind the other, wherever the one ends.
            if x.len() != size || y.len() != size {
                return Err(Fault::Key("x"));
            }
            Ok((kind, CoreJsonWebKey::new_ec(x, y, curve, None)))
        }
        "RSA" => {
            let (n, e) = (part("n")?, part("e")?);
            let n: Vec<u8> = n.into_iter().skip_while(|byte| *byte == 0).collect();
            let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
            if !RSA_BITS.contains(&bits) {
                return Err(Fault::Key("n"));
            }
            Ok((Kind::Rsa { size: n.len() }, CoreJsonWebKey::new_rsa(n, e, None)))
        }
        _ => Err(Fault::Key("kty")),
    }
}

/// R is a sound point, and S below the group's order: else one signature could be written in two ways.
fn is_strict_ed25519(signature: &[u8]) -> bool {
    let (r, s) = signature.split_at_checked(32).unwrap_or_default();
    is_sound_point(r) && is_below(s, &ORDER)
}

/// A point's canonical form, and none of small order.
fn is_sound_point(point: &[u8]) -> bool {
    let Ok(mut y) = <[u8; 32]>::try_from(point) else { return false };
    y[31] &= 0x7f;
    is_below(&y, &FIELD) && !SMALL_ORDER.contains(&y)
}

/// Compares numbers whose first byte is the least.
fn is_below(number: &[u8], bound: &[u8; 32]) -> bool {
    number.len() == bound.len() && number.iter().rev().lt(bound.iter().rev())
}

/// A signed token, taken apart. Nothing in it is to be believed before [`Jws::verify`].
#[derive(Clone)]
pub(super) struct Jws<'a> {
    algorithm: Algorithm,
    kid: String,
    typ: Option<String>,
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jws").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl<'a> Jws<'a> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'a str) -> Result<Self, Fault> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Fault::NotThreeParts)?;
        let (header, payload) = signed.split_once('.').ok_or(Fault::NotThreeParts)?;
        if payload.contains('.') {
            return Err(Fault::NotThreeParts);
        }
        let header = object(&decode(header, "header")?, "header")?;
        // Extensions that this parser does not know; of `crit` it would have to know all.
        let refused = ["crit", "b64", "zip", "cty", "cnf", "enc"];
        if let Some(name) = refused.into_iter().find(|name| header.contains_key(*name)) {
            return Err(Fault::Header(name));
        }
        let text = |name: &'static str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Fault::Header(name)),
        };
        let algorithm = text("alg")?.and_then(Algorithm::named).ok_or(Fault::Header("alg"))?;
        let kid = text("kid")?.ok_or(Fault::Header("kid"))?.to_owned();
        let typ = text("typ")?.map(str::to_owned);
        let payload = decode(payload, "claims")?;
        let signature = decode(signature, "signature")?;
        Ok(Self { algorithm, kid, typ, signed, payload, signature })
    }

    /// Which key it says it was signed with.
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// What it says it is.
    pub(super) fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// Its claims, once the key has signed for them.
    pub(super) fn verify(&self, key: &Key) -> Result<&[u8], Fault> {
        key.verify(self.algorithm, self.signed.as_bytes(), &self.signature)?;
        Ok(&self.payload)
    }
}

/// Unpadded, canonical base64url: no other text gives the same bytes.
pub(super) fn decode(text: &str, part: &'static str) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Fault::NotBase64(part))
}

/// One JSON object, no name twice at any level.
pub(super) fn object(bytes: &[u8], part: &'static str) -> Result<Map<String, Value>, Fault> {
    let refused = |_| Fault::NotAnObject(part);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { room: DEEPEST }.deserialize(&mut deserializer).map_err(refused)?;
    deserializer.end().map_err(refused)?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Fault::NotAnObject(part)),
    }
}

/// Reads a value in which no name stands twice.
struct Strict {
    /// Levels that it may still have.
    room: usize,
}

impl Strict {
    fn inside<E: serde::de::Error>(&self) -> Result<usize, E> {
        self.room.checked_sub(1).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value without repeated names")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let room = self.inside()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Self { room })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let room = self.inside()?;
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Self { room })?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(object))
    }
}
