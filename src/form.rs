//! `application/x-www-form-urlencoded`: the query of an authorization request and of its response,
//! and the bodies of token requests, on both sides.
//!
//! Pure. Source: the URL Standard, section 5; RFC 6749, section 3.1 and appendix B.

/// More parameters than this are refused.
const MAX_PARAMETERS: usize = 64;

/// The parameters of a response, each name once. No `Debug`: a code is among them.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Parses a query or a form body.
    ///
    /// # Errors
    /// With what is wrong: RFC 6749 forbids to repeat a parameter, so a repeated one is not from
    /// the provider or the provider is broken.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parameters = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let invalid = "a parameter is not percent-encoded UTF-8";
            let name = decode(name).ok_or(invalid)?;
            let value = decode(value).ok_or(invalid)?;
            if parameters.len() == MAX_PARAMETERS {
                return Err("there are too many parameters");
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err("a parameter is repeated");
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// Returns a parameter. RFC 6749 treats one without a value as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(other, _)| other == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Returns the values of one parameter of a text that [`Parameters::parse`] may refuse.
#[cfg(feature = "browser")]
pub(crate) fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    text.split('&').filter_map(move |pair| {
        let (other, value) = pair.split_once('=')?;
        decode(value).filter(|_| decode(other).as_deref() == Some(name))
    })
}

/// Encodes parameters as a query or a form body.
pub(crate) fn encode<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        encode_into(&mut text, name);
        text.push('=');
        encode_into(&mut text, value);
    }
    text
}

/// Percent-encodes everything but the unreserved characters; a space becomes `%20`, which is right
/// in a query and in a body.
pub(crate) fn encode_into(text: &mut String, value: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => {
                text.push('%');
                text.push(char::from(DIGITS[usize::from(byte >> 4)]));
                text.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

/// Decodes a name or a value. `None` if a `%` is not followed by two digits, or if the result is
/// not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, tail @ ..] = tail else { return None };
                bytes.push(digit(*high)? << 4 | digit(*low)?);
                rest = tail;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_round_trip() {
        let pairs = [("scope", "openid e-mail"), ("x", "a&b=c+d%/\u{e4}"), ("empty", "")];
        let text = encode(pairs);
        assert_eq!(text, "scope=openid%20e-mail&x=a%26b%3Dc%2Bd%25%2F%C3%A4&empty=");
        let read = Parameters::parse(&text).unwrap();
        assert_eq!(read.get("scope"), Some("openid e-mail"));
        assert_eq!(read.get("x"), Some("a&b=c+d%/\u{e4}"));
        assert_eq!((read.get("empty"), read.get("missing")), (None, None));
    }

    #[test]
    fn repeated_parameter_is_refused() {
        for text in ["code=1&code=2", "code=1&c%6fde=1", "a&a", "code=&code=1"] {
            assert_eq!(Parameters::parse(text).err(), Some("a parameter is repeated"), "{text}");
        }
    }

    #[test]
    fn malformed_encoding_is_refused() {
        for text in ["a=%", "a=%1", "a=%zz", "a=%+1", "%ff=1", "a=%c3"] {
            assert!(Parameters::parse(text).is_err(), "{text}");
        }
        assert!(Parameters::parse("a+b=c+d&&=").is_ok());
        let many = "x=1&".to_owned() + &(0..64).map(|n| format!("y{n}=1&")).collect::<String>();
        assert!(Parameters::parse(&many).is_err());
    }

    #[cfg(feature = "browser")]
    #[test]
    fn values_survive_duplicates() {
        let all: Vec<_> = values("state=a&state=b&x=%zz&state=%zz", "state").collect();
        assert_eq!(all, ["a", "b"]);
    }
}
