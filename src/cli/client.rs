//! The client of the management API.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::Failure;

/// Longest that any answer may take. A verb that takes longer is answered before with where to ask for its end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Where the API listens unless the configuration says otherwise.
const PORT: u16 = 8008;
/// HTTP: it goes on, and its end is to be asked for elsewhere.
const ACCEPTED: u16 = 202;
const SESSION_KEY: &str = "X-HP3PAR-WSAPI-SessionKey";

/// A refusal of the array, in its own words.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: u64,
    pub desc: String,
    /// The offending member of the request.
    pub reference: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl std::error::Error for Refusal {}

#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    key: String,
}

/// A name as one segment of a path: whatever an operator types names one object or none, never
/// another one (a `?` or `/` would end the segment).
pub fn segment(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    // Clients and servers take these for "here" and "above".
    match path.as_str() {
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => path,
    }
}

/// Path of a VLUN; its id is `volume,lun,host`, so that no name may hold a comma.
pub fn vlun_path(volume: &str, lun: u16, host: &str) -> Result<String, Failure> {
    if let Some(name) = [volume, host].into_iter().find(|name| name.contains(',')) {
        return Err(format!("`{name}` is no name: names have no commas").into());
    }
    Ok(format!("/api/v1/vluns/{},{lun},{}", segment(volume), segment(host)))
}

/// Believes the certificate in a file, for the names in it.
fn tls(trust: &Path) -> Result<TlsConfig, Failure> {
    let bad = |why: &dyn fmt::Display| format!("{}: {why}", trust.display());
    let text = std::fs::read(trust).map_err(|error| bad(&error))?;
    let certificate = Certificate::from_pem(&text).map_err(|error| bad(&error))?;
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(vec![certificate])))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build())
}

/// A password is said in the clear on this machine only, unless the user writes so.
fn may_say_password(scheme: Option<&str>, secured: bool, address: SocketAddr) -> Result<(), Failure> {
    if secured || scheme == Some("http") || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let problem = format!(
        "the password would be sent to {address} unencrypted: name the array's certificate with --trust or \
         TWINLUN_TRUST (`twinlun pair CONFIG` on the array prints it), or write http:// to consent"
    );
    Err(problem.into())
}

impl Client {
    /// Logs in: with TWINLUN_USER and TWINLUN_PASSWORD, else by the local token of the array. An
    /// encrypted API is believed by `trust`, else by the certificate that lies beside that token.
    ///
    /// # Errors
    /// No such address, no certificate, no way to log in, or the array does not answer.
    pub fn new(array: &str, trust: Option<&Path>) -> Result<Self, Failure> {
        let (scheme, host) = match array.split_once("://") {
            Some((scheme @ ("http" | "https"), host)) => (Some(scheme), host.trim_end_matches('/')),
            Some(_) => return Err(format!("`{array}` begins with neither http:// nor https://").into()),
            None => (None, array),
        };
        let with_port = host.to_socket_addrs().or_else(|_| (host, PORT).to_socket_addrs());
        let address: SocketAddr = with_port.ok().and_then(|mut found| found.next()).ok_or_else(|| {
            format!("`{host}` is no address; write ADDRESS or ADDRESS:PORT (--array or TWINLUN_ARRAY)")
        })?;
        let certificate =
            if scheme == Some("http") { None } else { crate::management::local_certificate(address) };
        let trust = trust.or(certificate.as_deref());
        let secured = scheme == Some("https") || (scheme.is_none() && trust.is_some());
        let user = (std::env::var("TWINLUN_USER"), std::env::var("TWINLUN_PASSWORD"));
        if matches!(user, (Ok(_), Ok(_))) {
            may_say_password(scheme, secured, address)?;
        }
        let mut config =
            ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
        if secured {
            let Some(trust) = trust else {
                let problem = "no certificate to know the array by: name its file with --trust or TWINLUN_TRUST \
                    (`twinlun pair CONFIG` on the array prints it)";
                return Err(problem.into());
            };
            config = config.tls_config(tls(trust)?);
        }
        let agent = config.build().new_agent();
        // A certificate stands for the name that was asked for.
        let name = host.strip_suffix(&format!(":{}", address.port())).unwrap_or(host);
        let named = name.parse::<std::net::IpAddr>().is_err() && !name.starts_with('[') && secured;
        let base = match (named, secured) {
            (true, _) => format!("https://{name}:{}", address.port()),
            (false, true) => format!("https://{address}"),
            (false, false) => format!("http://{address}"),
        };
        let mut client = Self { agent, base, key: String::new() };
        client.key = match user {
            (Ok(user), Ok(password)) => {
                let body = json!({"user": user, "password": password});
                let answer = client.request("POST", "/api/v1/credentials", Some(&body))?;
                answer["key"].as_str().unwrap_or_default().to_owned()
            }
            _ => {
                let path = crate::management::token_path(address);
                crate::management::read_token(address).map_err(|error| {
                    format!(
                        "no array on this machine listens on {address} for this user ({}: {error}); \
                         start it, name another with --array, or set TWINLUN_USER and TWINLUN_PASSWORD",
                        path.display()
                    )
                })?
            }
        };
        Ok(client)
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.request("GET", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.request("POST", path, Some(body))
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.request("PUT", path, Some(body))
    }

    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.request("DELETE", path, None)
    }

    /// Whether something is there.
    pub fn exists(&self, path: &str) -> Result<bool, Failure> {
        match self.get(path) {
            Ok(_) => Ok(true),
            Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == 404) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let text = self.text(method, path, body)?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The body of an answer as it is. A verb that takes long is waited for to its end; the array carries it out
    /// all the same when nobody waits.
    pub fn text(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String, Failure> {
        let (mut text, mut later) = self.answer(method, path, body)?;
        if later.is_some() {
            eprintln!(
                "the array is still at it (showrcopy and showeventlog tell how far); waiting for the end"
            );
        }
        while let Some(at) = later {
            (text, later) = self.answer("GET", &at, None)?;
        }
        Ok(text)
    }

    /// One answer, and where to ask for the end of what is still being carried out.
    fn answer(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(String, Option<String>), Failure> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(SESSION_KEY, &self.key)
            .header("Content-Type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())?;
        let mut answer = self.agent.run(request).map_err(|error| {
            let base = &self.base;
            format!("the array at {base} does not answer: {error}; start it, or name another with --array")
        })?;
        let status = answer.status().as_u16();
        let location = answer.headers().get("location").and_then(|at| at.to_str().ok()).map(str::to_owned);
        let text = answer.body_mut().read_to_string()?;
        if status < 400 {
            return Ok((text, location.filter(|_| status == ACCEPTED)));
        }
        let said: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let desc = said["desc"].as_str().map_or_else(|| format!("HTTP status {status}"), str::to_owned);
        let reference = said["ref"].as_str().map(str::to_owned);
        Err(Box::new(Refusal { status, code: said["code"].as_u64().unwrap_or(0), desc, reference }))
    }
}

#[cfg(test)]
mod tests {
    use super::{may_say_password, segment, vlun_path};

    #[test]
    fn no_password_leaves_the_machine_in_the_clear_without_consent() {
        let (here, there) = ("127.0.0.1:8008".parse().unwrap(), "192.0.2.1:8008".parse().unwrap());
        let said = may_say_password(None, false, there).unwrap_err().to_string();
        assert!(said.contains("--trust") && said.contains("http://"), "{said}");
        assert!(may_say_password(Some("http"), false, there).is_ok());
        assert!(may_say_password(None, true, there).is_ok() && may_say_password(None, false, here).is_ok());
    }

    #[test]
    fn a_name_never_reaches_beyond_its_segment() {
        assert_eq!(segment("vmfs.0-a_b"), "vmfs.0-a_b");
        assert_eq!(segment("v?x/../y#z %"), "v%3Fx%2F..%2Fy%23z%20%25");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(vlun_path("v", 1, "h").unwrap(), "/api/v1/vluns/v,1,h");
        assert!(vlun_path("v,1,h", 5, "x").is_err());
    }
}
