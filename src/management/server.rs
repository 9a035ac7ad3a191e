//! The HTTP server: routes, sessions, bounds.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde_json::json;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::auth::{Auth, UsersError};
use super::bounds::{Bounded, Client};
use super::error::ApiError;
use super::guesses::Guesses;
use super::transport::Https;
use super::verbs::{self, Verbs};
use super::{Json, group_targets, metrics, objects, remotecopy, token, verify};
use crate::array::Handle;
use crate::config::ArrayConfig;
use crate::link::refusals::Refusals;
use crate::tls::{self, Site, TlsError};

/// Largest request body in bytes: the longest that clients send are a host's few initiators. Every
/// connection may hold one, so this times `bounds::CONNECTIONS` is what all of them may hold.
const BODY_MAX: usize = 256 << 10;
/// Passwords checked at the same time: each takes 19 MiB of memory and a core for some 50 ms.
const LOGINS_AT_ONCE: usize = 2;
/// Header with the session key; WSAPI clients spell it in several cases.
const SESSION_KEY: &str = "x-hp3par-wsapi-sessionkey";

#[derive(Debug, Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("no token for the command line: {0}")]
    Token(io::Error),
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What every request works with.
#[derive(Clone, Debug)]
pub struct Api {
    pub handle: Handle,
    pub auth: Arc<Auth>,
    pub verbs: Verbs,
    logins: Arc<Semaphore>,
    guesses: Arc<Mutex<Guesses>>,
    /// Failed logins, for the log.
    refusals: Arc<Refusals>,
    loopback: bool,
}

/// Serves the API until the task is aborted.
///
/// # Errors
/// The address cannot be listened on, or the users file or the key is of no use.
pub async fn serve(config: &ArrayConfig, handle: Handle) -> Result<tokio::task::AbortHandle, ServeError> {
    let own = Site::array(&config.array.name);
    let https =
        config.secures(config.management.allow_plaintext).map(|at| tls::https(at, &own)).transpose()?;
    let config = &config.management;
    let address = config.listen;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    if config.allow_plaintext {
        tracing::warn!("the management API is not encrypted (allow_plaintext)");
    }
    let users = config.users.clone().unwrap_or_else(|| handle.data_dir.path().join("users"));
    let (acceptor, card) = https.unzip();
    let certificate = card.map(|card| card.pem());
    let local = token::make_token(address, certificate.as_deref()).map_err(ServeError::Token)?;
    let auth = Arc::new(Auth::new(users, local)?);
    let logins = Arc::new(Semaphore::new(LOGINS_AT_ONCE));
    let (guesses, refusals) = (Arc::default(), Arc::default());
    let loopback = address.ip().is_loopback();
    let api = Api { handle, auth, verbs: Verbs::default(), logins, guesses, refusals, loopback };
    let server = async move {
        let service = router(api).into_make_service_with_connect_info::<Client>();
        if let Err(error) = axum::serve(Bounded::new(listener, acceptor.map(Https::new)), service).await {
            tracing::error!(%error, "the management API has ended");
        }
    };
    Ok(tokio::spawn(server).abort_handle())
}

fn router(api: Api) -> Router {
    let inside = Router::new()
        .merge(objects::routes())
        .merge(remotecopy::routes())
        .merge(group_targets::routes())
        .merge(verify::routes())
        .route(&format!("{}/{{number}}", verbs::RESOURCE), get(verbs::answer))
        .layer(middleware::from_fn_with_state(api.clone(), verbs::to_its_end))
        .layer(middleware::from_fn_with_state(api.clone(), must_have_session));
    Router::new()
        .route("/api", get(version))
        .route("/api/v1/credentials", post(login))
        .route("/api/v1/credentials/{key}", delete(logout))
        .route("/metrics", get(show_metrics))
        .merge(inside)
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async {
            ApiError::new(501, 9, "this resource takes no such request")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::map_response(in_wsapi_shape))
        .with_state(api)
}

/// Refusals of the HTTP library itself (a body too long, a query that does not decode) come as text;
/// clients expect WSAPI's error body.
async fn in_wsapi_shape(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (code, desc) = match status {
        StatusCode::PAYLOAD_TOO_LARGE => (4, format!("the request body is longer than {BODY_MAX} bytes")),
        StatusCode::REQUEST_TIMEOUT => (7, "the request took too long to arrive".to_owned()),
        _ => (12, format!("invalid input: {status}")),
    };
    ApiError::new(status.as_u16(), code, desc).into_response()
}

async fn must_have_session(
    State(api): State<Api>,
    ConnectInfo(client): ConnectInfo<Client>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let key = headers.get(SESSION_KEY).and_then(|key| key.to_str().ok());
    if key.is_some_and(|key| api.auth.knows(key)) {
        client.has_proved();
        return next.run(request).await;
    }
    ApiError::new(403, 6, "invalid session key: log in with POST /api/v1/credentials").into_response()
}

/// `GET /api`: the version that decides what clients dare to ask for.
async fn version() -> axum::Json<Json> {
    axum::Json(json!({"major": 1, "minor": 10, "revision": 0, "build": 40_200_000}))
}

/// A JSON object from a request body; null members count as absent.
pub fn object(body: &Bytes) -> Result<serde_json::Map<String, Json>, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Json::Object(mut members)) => {
            members.retain(|_, value| !value.is_null());
            Ok(members)
        }
        Ok(_) => Err(ApiError::new(400, 12, "invalid input: a JSON object is expected")),
        Err(error) => Err(ApiError::new(400, 60, format!("JSON syntax error: {error}"))),
    }
}

async fn login(
    State(api): State<Api>,
    ConnectInfo(client): ConnectInfo<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let members = object(&body)?;
    let text = |name: &str| {
        let member = members.get(name).ok_or_else(|| ApiError::missing(name))?;
        member.as_str().map(str::to_owned).ok_or_else(|| ApiError::wrong_type(name))
    };
    let (user, password) = (text("user")?, text("password")?);
    let auth = Arc::clone(&api.auth);
    let guesses = || api.guesses.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = |what: &str| {
        if let Some(untold) = api.refusals.is_due(client.from, what) {
            tracing::warn!(from = %client.from, untold, "a login to the management API failed: {what}");
        }
    };
    {
        let (mut guesses, now) = (guesses(), Instant::now());
        if let Err(wait) = guesses.may_try(client.from, now) {
            failed("too many wrong passwords");
            let wait = wait.as_secs() + 1;
            let why = format!("too many wrong passwords from this address; try again in {wait} s");
            return Err(ApiError::new(403, 5, why));
        }
        guesses.tries(client.from, now);
    }
    // Never closed; those who wait are as many as there are connections at most.
    let _turn = api.logins.acquire().await;
    // Hashing takes its time; never on the control thread.
    let key = tokio::task::spawn_blocking(move || auth.login(&user, &password)).await;
    let key = match key {
        Ok(Ok(Some(key))) => key,
        Ok(Ok(None)) => {
            failed("wrong user name or password");
            return Err(ApiError::new(403, 5, "invalid user name or password"));
        }
        Ok(Err(error)) => return Err(ApiError::new(500, 1, error.to_string())),
        Err(_) => return Err(ApiError::new(503, 1, "the array is shutting down")),
    };
    guesses().right(client.from);
    client.has_proved();
    let location = format!("/api/v1/credentials/{key}");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(json!({"key": key}))).into_response())
}

async fn logout(State(api): State<Api>, Path(key): Path<String>) -> StatusCode {
    api.auth.logout(&key);
    StatusCode::OK
}

async fn show_metrics(State(api): State<Api>, headers: HeaderMap) -> Result<String, ApiError> {
    let key = headers.get(SESSION_KEY).and_then(|key| key.to_str().ok());
    if api.loopback || key.is_some_and(|key| api.auth.knows(key)) {
        return Ok(metrics::render(&api.handle));
    }
    Err(ApiError::new(403, 6, "off loopback the metrics need a session"))
}
