//! The interface between HTTP and the protocol above it.

use super::request::{Framing, Rejection, Request};
use super::response::{Outcome, Response};

/// Handles requests.
pub(in crate::server) trait Handler: Send + Sync + 'static {
    /// Handles a request. Runs on the connection's own thread, may block, and may panic. After a
    /// panic, the client gets an error response, and other connections are not affected.
    fn handle(&self, request: &Request) -> Outcome;

    /// Returns how many bytes the body of a request may have, based on its head. An error is sent
    /// as the response without reading the body, and the connection is then closed. The request's
    /// body is still empty.
    fn admit(&self, request: &Request, framing: Framing) -> Result<usize, Response>;

    /// Builds the response to a request that could not be parsed, or whose handler panicked. The
    /// connection is then closed.
    fn reject(&self, rejection: &Rejection) -> Response;
}
