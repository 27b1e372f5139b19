//! Responses, and how an exchange ends.

use std::io::Write;

use crate::server::budget::Reservation;

/// How an exchange ends. All variants except the first are injected faults, after which the
/// connection is closed.
pub(in crate::server) enum Outcome {
    /// Write the whole response.
    Answer(Response),
    /// Write these bytes.
    Bytes(Vec<u8>),
    /// Write nothing.
    Cut,
    /// Write the response in pieces of `size` bytes with a pause between them. When a pause returns
    /// `false`, write the rest at once.
    Drip { response: Response, size: usize, pause: Box<dyn Fn() -> bool> },
    /// Write half of the response body, or half of the head if there is no body.
    Half(Response),
}

/// A response. The connection adds `Content-Length` and `Connection`.
pub(in crate::server) struct Response {
    /// The status code.
    pub status: u16,
    /// Header fields, in the order they are written.
    pub headers: Vec<(&'static str, String)>,
    /// The body. It is not sent where HTTP allows none (1xx, 204, 304, `HEAD`).
    pub body: Vec<u8>,
    /// Memory that was reserved for the response, and is released when it is written. While others
    /// wait for it, the client must receive the response quickly.
    pub memory: Option<Reservation>,
}

impl Response {
    pub(in crate::server) fn new(
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> Self {
        Self { status, headers, body, memory: None }
    }

    /// Returns the first half of the part that is written last: the body, or the head if there is
    /// no body.
    pub(super) fn half(&self, with_body: bool) -> Vec<u8> {
        let mut bytes = self.to_bytes(Some("close"), with_body);
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_default() + 4;
        let body = bytes.len().saturating_sub(head);
        bytes.truncate(if body == 0 { head / 2 } else { head + body / 2 });
        bytes
    }

    /// Returns the response in wire format.
    pub(super) fn to_bytes(&self, connection: Option<&str>, with_body: bool) -> Vec<u8> {
        let mut bytes = self.head(connection);
        bytes.extend_from_slice(self.sent_body(with_body));
        bytes
    }

    /// Returns the head in wire format.
    pub(super) fn head(&self, connection: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        // Writing to a vector cannot fail.
        let _ = write!(bytes, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            // A line break would end the value and start another field.
            let value = value.replace(['\r', '\n', '\0'], " ");
            let _ = write!(bytes, "{name}: {value}\r\n");
        }
        if let Some(connection) = connection {
            let _ = write!(bytes, "Connection: {connection}\r\n");
        }
        if !self.is_bodiless() {
            let _ = write!(bytes, "Content-Length: {}\r\n", self.body.len());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// Returns the part of the body that is sent.
    pub(super) fn sent_body(&self, with_body: bool) -> &[u8] {
        if with_body && !self.is_bodiless() { &self.body } else { &[] }
    }

    fn is_bodiless(&self) -> bool {
        matches!(self.status, 100..200 | 204 | 304)
    }
}

/// Returns the reason phrase of a status. Clients do not depend on it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(response: &Response, with_body: bool) -> String {
        String::from_utf8(response.to_bytes(Some("close"), with_body)).unwrap()
    }

    #[test]
    fn response_without_content_has_no_length() {
        let response = Response::new(204, vec![], vec![]);
        assert_eq!(
            written(&response, true),
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn head_response_has_length_without_body() {
        let response = Response::new(200, vec![], b"four".to_vec());
        assert_eq!(
            written(&response, false),
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
        );
    }

    /// Half a response ends within its body, or within its head if the body is empty.
    #[test]
    fn truncation_cuts_body_or_empty_response_head() {
        let half = |body: &[u8]| {
            let response = Response::new(200, vec![], body.to_vec());
            String::from_utf8(response.half(true)).unwrap()
        };
        assert!(half(b"four").ends_with("Content-Length: 4\r\n\r\nfo"));
        assert_eq!(half(b""), "HTTP/1.1 200 OK\r\nConnection:");
    }

    #[test]
    fn header_value_cannot_contain_newline() {
        let headers = vec![("X-Name", "a\r\nSet-Cookie: b".to_owned())];
        let text = written(&Response::new(200, headers, vec![]), true);
        assert!(!text.contains("\nSet-Cookie"), "{text}");
    }
}
