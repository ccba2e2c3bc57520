//! Heads of HTTP/1 requests and responses (RFC 9112), and the trace context in them.

/// Most header lines in a head.
const MAX_HEADERS: usize = 128;
/// A path that is longer is left out.
const MAX_PATH: usize = 2048;
/// As DNS has it.
const MAX_HOST: usize = 253;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection, or not at all.
    Close,
}

/// How a body is coded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    #[default]
    Identity,
    /// As RFC 1952 has it.
    Gzip,
    /// Some other way.
    Other,
}

/// What became of reading a head.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<H> {
    /// A whole head, of so many bytes.
    Whole(H, usize),
    /// A beginning of one.
    Partial,
    /// No head.
    Bad,
}

/// A head of either kind.
pub trait Head: Sized {
    /// Reads a head from the front of `bytes`.
    fn parse(bytes: &[u8]) -> Parsed<Self>;
    /// How the end of the body is told.
    fn framing(&self) -> Framing;
    /// Another head follows: an interim response (1xx).
    fn is_interim(&self) -> bool {
        false
    }
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, where one is named.
    pub port: Option<u16>,
}

/// A `traceparent`, as W3C Trace Context has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The caller's span; not 0.
    pub span_id: u64,
    /// The caller records this trace.
    pub sampled: bool,
}

/// A request's head, as far as anybody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// One of HTTP's methods.
    pub method: &'static str,
    /// Without query; `None` where there is none, or one that is too long to show.
    pub path: Option<String>,
    /// From the target or the `Host` header.
    pub authority: Option<Authority>,
    /// The caller's span.
    pub traceparent: Option<TraceParent>,
    /// How the body is coded.
    pub encoding: Encoding,
    framing: Framing,
}

/// A response's head, as far as anybody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its status.
    pub status: u16,
    /// How the body is coded.
    pub encoding: Encoding,
    /// `text/event-stream`.
    pub is_event_stream: bool,
    framing: Framing,
}

/// What headers say of the body; `None` where they contradict each other.
#[derive(Default)]
struct BodyHeaders {
    length: Option<u64>,
    chunked: bool,
    coded: bool,
    encoding: Encoding,
}

impl BodyHeaders {
    fn take(&mut self, header: &httparse::Header<'_>) -> Option<()> {
        let (name, value) = (header.name, header.value.trim_ascii());
        if name.eq_ignore_ascii_case("content-length") {
            let length = number(value)?;
            if self.length.replace(length).is_some_and(|other| other != length) {
                return None;
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.coded = true;
            self.chunked = value.to_ascii_lowercase().ends_with(b"chunked");
            // A coding below the chunks is not undone here.
            if !value.eq_ignore_ascii_case(b"chunked") {
                self.encoding = Encoding::Other;
            }
        } else if name.eq_ignore_ascii_case("content-encoding") {
            let first = self.encoding == Encoding::Identity;
            self.encoding = match value.to_ascii_lowercase().as_slice() {
                b"identity" | b"" => self.encoding,
                b"gzip" | b"x-gzip" if first => Encoding::Gzip,
                _ => Encoding::Other,
            };
        }
        Some(())
    }

    fn framing(&self, otherwise: Framing) -> Framing {
        match (self.coded, self.chunked, self.length) {
            (true, true, _) => Framing::Chunked,
            (true, false, _) => Framing::Close,
            (false, _, Some(length)) => Framing::Length(length),
            (false, _, None) => otherwise,
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Head for RequestHead {
    fn parse(bytes: &[u8]) -> Parsed<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let len = match request.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Parsed::Partial,
            Err(_) => return Parsed::Bad,
        };
        match Self::from_parsed(&request) {
            Some(head) => Parsed::Whole(head, len),
            None => Parsed::Bad,
        }
    }

    fn framing(&self) -> Framing {
        self.framing
    }
}

impl RequestHead {
    fn from_parsed(request: &httparse::Request<'_, '_>) -> Option<Self> {
        const METHODS: [&str; 8] =
            ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT"];
        let method = METHODS.into_iter().find(|method| Some(*method) == request.method)?;
        let target = request.path?;
        let (mut path, mut authority) = split_target(method, target);
        path = path.filter(|path| path.len() <= MAX_PATH);
        let mut body = BodyHeaders::default();
        let (mut hosts, mut contexts) = (vec![], vec![]);
        for header in request.headers.iter() {
            body.take(header)?;
            if header.name.eq_ignore_ascii_case("host") {
                hosts.push(header.value);
            } else if header.name.eq_ignore_ascii_case("traceparent") {
                contexts.push(header.value);
            }
        }
        if authority.is_none() && hosts.len() == 1 {
            authority = std::str::from_utf8(hosts[0]).ok().and_then(Authority::parse);
        }
        let traceparent = match contexts[..] {
            [one] => std::str::from_utf8(one).ok().and_then(TraceParent::parse),
            _ => None,
        };
        Some(Self {
            method,
            path: path.map(str::to_owned),
            authority,
            traceparent,
            encoding: body.encoding,
            framing: body.framing(Framing::Length(0)),
        })
    }
}

/// The path of a request's target, and whom it names.
fn split_target<'t>(method: &str, target: &'t str) -> (Option<&'t str>, Option<Authority>) {
    let (path, authority) = if method == "CONNECT" {
        return (None, Authority::parse(target));
    } else if target.starts_with('/') || target == "*" {
        (target, None)
    } else if let Some((_, rest)) = target.split_once("://") {
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        (if path.starts_with('/') { path } else { "/" }, Authority::parse(authority))
    } else {
        return (None, None);
    };
    (path.split(['?', '#']).next(), authority)
}

impl Authority {
    /// Reads `host`, `host:port`, `[address]:port`.
    pub fn parse(text: &str) -> Option<Self> {
        // Whoever is named in front of the host is nobody's business.
        let text = text.rsplit_once('@').map_or(text, |(_, host)| host).trim();
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':').map_or_else(|| port.is_empty().then_some(""), Some)?)
            }
            None => text.rsplit_once(':').unwrap_or((text, "")),
        };
        let plausible = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(plausible) {
            return None;
        }
        let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
        Some(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl TraceParent {
    /// Reads a header's value.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let [version, trace, span, flags] = [(); 4].map(|()| fields.next().unwrap_or_default());
        let hex = |field: &str, len: usize| {
            let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (field.len() == len && field.bytes().all(lower))
                .then(|| u128::from_str_radix(field, 16).ok())
                .flatten()
        };
        // A later version may have more behind these.
        let version = hex(version, 2).filter(|version| *version != 0xff)?;
        if version == 0 && fields.next().is_some() {
            return None;
        }
        Some(Self {
            trace_id: hex(trace, 32).filter(|id| *id != 0)?,
            span_id: u64::try_from(hex(span, 16)?).ok().filter(|id| *id != 0)?,
            sampled: hex(flags, 2)? & 1 != 0,
        })
    }
}

impl Head for ResponseHead {
    fn parse(bytes: &[u8]) -> Parsed<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let len = match response.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Parsed::Partial,
            Err(_) => return Parsed::Bad,
        };
        match Self::from_parsed(&response) {
            Some(head) => Parsed::Whole(head, len),
            None => Parsed::Bad,
        }
    }

    fn framing(&self) -> Framing {
        match self.status {
            101 | 204 | 304 => Framing::Length(0),
            _ => self.framing,
        }
    }

    fn is_interim(&self) -> bool {
        self.status / 100 == 1 && self.status != 101
    }
}

impl ResponseHead {
    fn from_parsed(response: &httparse::Response<'_, '_>) -> Option<Self> {
        let mut body = BodyHeaders::default();
        let mut is_event_stream = false;
        for header in response.headers.iter() {
            body.take(header)?;
            if header.name.eq_ignore_ascii_case("content-type") {
                let kind = header.value.split(|byte| *byte == b';').next().unwrap_or_default();
                is_event_stream = kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
            }
        }
        Some(Self {
            status: response.code.filter(|code| (100..1000).contains(code))?,
            encoding: body.encoding,
            is_event_stream,
            framing: body.framing(Framing::Close),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Option<RequestHead> {
        match RequestHead::parse(text.as_bytes()) {
            Parsed::Whole(head, len) => {
                assert_eq!(len, text.len());
                Some(head)
            }
            _ => None,
        }
    }

    #[test]
    fn a_request_says_whom_it_asks_for_what() {
        let head = request(
            "POST /v1/messages?beta=true HTTP/1.1\r\nHost: API.example.com:8443\r\n\
             Content-Length: 12\r\n\r\n",
        )
        .unwrap();
        assert_eq!((head.method, head.path.as_deref()), ("POST", Some("/v1/messages")));
        let authority = Authority { host: "api.example.com".into(), port: Some(8443) };
        assert_eq!(
            (head.authority.clone(), head.framing()),
            (Some(authority), Framing::Length(12))
        );
        let proxied = request("GET http://u:p@host/a#b HTTP/1.1\r\nhost: other\r\n\r\n").unwrap();
        assert_eq!(proxied.path.as_deref(), Some("/a"));
        assert_eq!(proxied.authority.unwrap().host, "host");
        assert_eq!(request("OPTIONS * HTTP/1.1\r\n\r\n").unwrap().path.as_deref(), Some("*"));
        assert_eq!(request("GET http://h?q HTTP/1.1\r\n\r\n").unwrap().path.as_deref(), Some("/"));
        let tunnel = request("CONNECT [::1]:443 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((tunnel.path, tunnel.authority.unwrap().host), (None, "::1".into()));
    }

    #[test]
    fn what_is_not_certain_is_left_out() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_PATH));
        assert_eq!(request(&long).unwrap().path, None);
        let two = request("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
        assert_eq!(two.authority, None);
        assert_eq!(request("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").unwrap().authority, None);
        assert_eq!(request("BREW / HTTP/1.1\r\n\r\n"), None);
        let lengths = "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(request(lengths), None);
        assert_eq!(request("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), None);
        assert_eq!(RequestHead::parse(b"GET / HT"), Parsed::Partial);
        assert_eq!(RequestHead::parse(b"\0\0"), Parsed::Bad);
    }

    #[test]
    fn trace_context_as_the_standard_has_it() {
        let parse = TraceParent::parse;
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let expected = TraceParent {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
        };
        assert_eq!(parse(valid), Some(expected));
        let head = format!("GET / HTTP/1.1\r\nTraceparent: {valid}\r\n\r\n");
        assert_eq!(request(&head).unwrap().traceparent, Some(expected));
        let unsampled = parse(&valid.replace("-01", "-00")).unwrap();
        assert!(!unsampled.sampled);
        assert_eq!(parse(&valid.replace("00-4b", "cc-4b").replace("-01", "-01-x")), Some(expected));
        for wrong in [
            valid.replace("00-4b", "ff-4b"),
            valid.to_uppercase(),
            format!("{valid}-x"),
            valid.replace("-01", ""),
            valid.replace("00f067aa0ba902b7", "0000000000000000"),
            valid.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            String::new(),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_response_says_how_its_body_is_framed_and_coded() {
        let parse = |text: &str| match ResponseHead::parse(text.as_bytes()) {
            Parsed::Whole(head, _) => head,
            other => panic!("{other:?}"),
        };
        let plain = parse("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        assert_eq!((plain.status, plain.framing()), (200, Framing::Length(5)));
        let coded = parse(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Encoding: GZIP\r\n\
             Content-Type: text/event-stream; charset=utf-8\r\n\r\n",
        );
        assert_eq!((coded.framing(), coded.encoding), (Framing::Chunked, Encoding::Gzip));
        assert!(coded.is_event_stream);
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n").framing(), Framing::Close);
        assert_eq!(
            parse("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n").framing(),
            Framing::Length(0)
        );
        assert!(parse("HTTP/1.1 100 Continue\r\n\r\n").is_interim());
        let odd = parse("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n");
        assert_eq!(odd.encoding, Encoding::Other);
    }
}
