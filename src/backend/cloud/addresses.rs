//! Whose address a request comes from: the connection's, or what a trusted proxy says of it.

use std::net::{IpAddr, Ipv6Addr};

use crate::contract::RequestFacts;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// An address, or one with the number of bits that count, as in `10.0.0.0/8`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => longest,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= longest)?
            }
            Some(_) => return None,
        };
        Some(Self { address, bits })
    }

    /// Whether this address is one of them; an IPv4 address that stands as IPv6 counts as what it is.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = u32::from(own) ^ u32::from(other);
                differ.checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = u128::from(own) ^ u128::from(other);
                differ.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Who is held to account for a request: the connection's peer or, where that is a trusted proxy, the last address in
/// X-Forwarded-For that is none. Whatever stands before that was written by whoever asks. What is no address ends the
/// search, and the proxy that passed it on answers for it.
pub(super) fn client(request: &RequestFacts, trusted: &[Network]) -> Option<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = request.peer?;
    let mut passed_on = request.forwarded_for.iter().rev().flat_map(|field| field.rsplit(','));
    while is_trusted(client) {
        let Some(before) = passed_on.next().and_then(|text| text.trim_matches([' ', '\t']).parse().ok()) else { break };
        client = before;
    }
    Some(alike(client))
}

/// One for all addresses that one client may choose from: of IPv6 a whole /64 is given to each.
fn alike(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}
