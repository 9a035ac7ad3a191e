//! Socket addresses as operators write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The port of iSCSI (RFC 7143 14.1), when a portal names none.
const ISCSI_PORT: u16 = 3260;

/// `IP:PORT`, or a bare IP where a port is known by default.
fn parse(text: &str, port: Option<u16>) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match (text.parse::<IpAddr>(), port) {
        (Ok(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        (Ok(ip), None) => {
            let with_port = SocketAddr::new(ip, 5801);
            Err(format!("`{text}` lacks a port; write e.g. \"{with_port}\""))
        }
        _ => Err(format!(
            "`{text}` is no socket address; write IP:PORT, e.g. \"192.0.2.1:3260\" (names are not looked up)"
        )),
    }
}

/// For `deserialize_with`: an address with its port.
pub fn socket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = SocketAddr;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address in quotes, e.g. \"192.0.2.1:5801\"")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<SocketAddr, E> {
            parse(text, None).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text)
}

/// A portal: the port may be left out.
struct PortalAddress(SocketAddr);

impl<'de> Deserialize<'de> for PortalAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = PortalAddress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address in quotes, e.g. \"192.0.2.1:3260\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortalAddress, E> {
                parse(text, Some(ISCSI_PORT)).map(PortalAddress).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// For `deserialize_with`: the portals of an array.
pub fn portals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let portals = Vec::<PortalAddress>::deserialize(deserializer)?;
    Ok(portals.into_iter().map(|portal| portal.0).collect())
}
