//! Who may talk to the API over TCP.

use super::error::ApiError;
use hyper::{HeaderMap, Method, StatusCode, header};
use ring::{hmac, rand::SystemRandom};
use std::net::IpAddr;

/// The bearer token, kept as a keyed digest: comparing digests takes the same time whatever was presented.
pub(crate) struct Token {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Token {
    /// Keeps `token`, whose form the configuration has checked; `None` when the system gives no random numbers.
    pub(crate) fn new(token: &str) -> Option<Token> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        let tag = hmac::sign(&key, token.as_bytes());
        Some(Token { key, tag })
    }

    fn is(&self, presented: &str) -> bool {
        hmac::verify(&self.key, presented.as_bytes(), self.tag.as_ref()).is_ok()
    }

    /// Checks `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let presented = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = presented
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        match token {
            Some(token) if self.is(token) => Ok(()),
            Some(_) => Err(ApiError::new(StatusCode::UNAUTHORIZED, "the token is not the agent's")
                .fix("use the content of the agent's admin.token_file")),
            None => Err(ApiError::new(StatusCode::UNAUTHORIZED, "a token is needed")
                .fix("send `Authorization: Bearer TOKEN`; the CLI takes --token-file")),
        }
    }
}

/// Against DNS rebinding, where a web page's own name resolves to 127.0.0.1: its Host header still carries that
/// name, so an API that asks nobody who they are accepts only addresses and `localhost`.
pub(crate) fn check_host(headers: &HeaderMap) -> Result<(), ApiError> {
    let host = host(headers);
    let local = |authority: &str| {
        let name = host_name(authority);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    };
    if host.is_some_and(|h| !local(h)) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "the Host header is no address").fix(
            "dial the API by its address or as localhost; a name needs a token or client certificates",
        ));
    }
    Ok(())
}

/// Against writes that a page of another site makes a browser send: browsers put an Origin on every one. Client
/// certificates do not help there, as the browser would bring its own.
pub(crate) fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let host = host(headers);
    let origin = headers.get(header::ORIGIN).map(|o| o.to_str().unwrap_or(""));
    let same = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
    if method != Method::GET && method != Method::HEAD && origin.is_some_and(|o| !same(o)) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "a page of another site may not write")
            .fix("set a token to use the API from a browser application"));
    }
    Ok(())
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST).map(|h| h.to_str().unwrap_or(""))
}

fn host_name(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(k, v): &(&'static str, &'static str)| {
            (header::HeaderName::from_static(k), header::HeaderValue::from_static(v))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_the_token_opens() {
        let token = Token::new("0123456789abcdef").unwrap();
        let check = |value| token.check(&headers(&[("authorization", value)])).is_ok();
        assert!(check("Bearer 0123456789abcdef") && check("bearer 0123456789abcdef"));
        for bad in ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Basic 0123456789abcdef"] {
            assert!(!check(bad), "{bad}");
        }
        assert!(token.check(&HeaderMap::new()).is_err());
    }

    #[test]
    fn pages_cannot_reach_in() {
        let get = |h| check_host(&headers(&[("host", h)])).is_ok();
        for good in ["127.0.0.1", "127.0.0.1:80", "[::1]:80", "localhost:1", "LOCALHOST"] {
            assert!(get(good), "{good}");
        }
        for bad in ["evil.example", "127.0.0.1.evil.example:80", "", "localhost.evil"] {
            assert!(!get(bad), "{bad}");
        }
        let put = |origin| {
            check_origin(&Method::PUT, &headers(&[("host", "127.0.0.1:8"), ("origin", origin)])).is_ok()
        };
        assert!(put("http://127.0.0.1:8"));
        assert!(!put("http://evil.example") && !put("null") && !put("http://127.0.0.1:9"));
    }
}
