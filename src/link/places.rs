//! Places for callers who have not proved who they are: few for each address, and some kept for
//! addresses from which somebody has proved it, so that strangers keep nobody out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most addresses that are remembered as known; the arrays of a large witness.
const KNOWN_MAX: usize = 4096;

/// How many callers there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all addresses that are not known.
    pub strangers: usize,
    /// Of one of them.
    pub of_one: usize,
    /// Of known addresses, beside those: nobody else takes these places.
    pub known: usize,
}

/// One host, or the network that one host of IPv6 can choose its addresses in.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        canonical @ IpAddr::V4(_) => canonical,
    }
}

#[derive(Debug, Default)]
struct State {
    strangers: BTreeMap<IpAddr, usize>,
    known: usize,
    addresses: BTreeSet<IpAddr>,
}

/// The places of one port; clones are the same.
#[derive(Clone, Debug)]
pub struct Places {
    limits: Limits,
    state: Arc<Mutex<State>>,
}

/// One caller's place, free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    /// `None`: one of those for known addresses.
    stranger: Option<IpAddr>,
}

impl Places {
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody who is believed lives there.
    pub fn know(&self, address: IpAddr) {
        let mut state = self.lock();
        if state.addresses.len() < KNOWN_MAX {
            state.addresses.insert(whose(address));
        }
    }

    /// `None`: all that this address may have are taken.
    pub fn take(&self, from: IpAddr) -> Option<Place> {
        let from = whose(from);
        let mut state = self.lock();
        if state.known < self.limits.known && state.addresses.contains(&from) {
            state.known += 1;
            return Some(Place { places: self.clone(), stranger: None });
        }
        let of_one = state.strangers.get(&from).copied().unwrap_or(0);
        let all: usize = state.strangers.values().sum();
        if of_one >= self.limits.of_one || all >= self.limits.strangers {
            return None;
        }
        state.strangers.insert(from, of_one + 1);
        Some(Place { places: self.clone(), stranger: Some(from) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        let Some(from) = self.stranger else {
            state.known -= 1;
            return;
        };
        match state.strangers.get_mut(&from) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                state.strangers.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_few_places_and_strangers_leave_those_of_the_known() {
        let places = Places::new(Limits { strangers: 5, of_one: 2, known: 2 });
        let at = |n: u8| IpAddr::from([192, 0, 2, n]);
        places.know(at(9));
        let first = [places.take(at(1)), places.take(at(1)), places.take(at(2)), places.take(at(2))];
        assert!(first.iter().all(Option::is_some));
        assert!(places.take(at(1)).is_none(), "two of one address");
        let fifth = places.take(at(3)).unwrap();
        assert!(places.take(at(4)).is_none(), "five strangers");
        let known = [places.take(at(9)), places.take(at(9))];
        assert!(known.iter().all(Option::is_some) && places.take(at(9)).is_none());
        drop((first, known));
        assert!(places.take(at(9)).is_some() && places.take(at(1)).is_some());
        drop(fifth);
        assert!(places.lock().strangers.is_empty());
        assert_eq!(places.lock().known, 0);
    }

    #[test]
    fn an_ipv6_host_is_its_network_and_a_mapped_address_is_ipv4() {
        let places = Places::new(Limits { strangers: 9, of_one: 1, known: 0 });
        let _one = places.take("2001:db8::1".parse().unwrap()).unwrap();
        assert!(places.take("2001:db8::2".parse().unwrap()).is_none());
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_some());
        let _mapped = places.take("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert!(places.take("192.0.2.1".parse().unwrap()).is_none());
    }
}
