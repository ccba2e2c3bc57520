//! Keeps credentials out of recordings: the values of headers that carry them are overwritten in
//! captured bytes before these are written down. Lengths stay, so a replay gives the same spans.

use tracer_ebpf::event::{Kind, PayloadHead, PayloadKind, Wire as _};

/// Longest header name that is looked at.
const MAX_NAME: usize = 40;

/// The record without credentials; `None` where it has none.
pub(super) fn scrub(record: &[u8]) -> Option<Vec<u8>> {
    if *record.first()? != Kind::Payload as u8 {
        return None;
    }
    let head = PayloadHead::from_bytes(record)?;
    let is_http = [PayloadKind::Request as u8, PayloadKind::Response as u8].contains(&head.what);
    let captured = size_of::<PayloadHead>()..record.len();
    if !is_http || captured.is_empty() {
        return None;
    }
    let mut clean: Option<Vec<u8>> = None;
    let mut at = captured.start;
    while at < captured.end {
        let rest = &record[at..];
        let len = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = &rest[..len];
        let colon = line.iter().take(MAX_NAME).position(|byte| *byte == b':');
        if let Some(colon) = colon.filter(|&colon| carries_credentials(&line[..colon])) {
            let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
            let value = at + colon + 1..at + end.max(colon + 1);
            clean.get_or_insert_with(|| record.to_vec())[value].fill(b'x');
        }
        at += len + 1;
    }
    clean
}

/// By name: what is a secret by its standard, and what looks like one.
fn carries_credentials(name: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
    if name.is_empty() || !name.iter().all(is_token) {
        return false;
    }
    let name = name.to_ascii_lowercase();
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    [&b"auth"[..], b"cookie", b"key", b"token", b"secret", b"password", b"credential", b"session"]
        .into_iter()
        .any(has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_ebpf::event::Header;

    fn record(what: PayloadKind, text: &str) -> Vec<u8> {
        let header = Header { kind: Kind::Payload as u8, flags: 0, fn_id: 0, tid: 1, ts: 1, id: 1 };
        let len = text.len();
        let head = PayloadHead {
            header,
            key: 1,
            offset: 0,
            len: len as u32,
            captured: len as u16,
            what: what as u8,
            reserved: 0,
            tail: [0; 8],
        };
        [head.as_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn values_of_secret_headers_are_overwritten_and_nothing_else() {
        let text = "POST /v1/messages HTTP/1.1\r\nHost: key.example\r\nX-Api-Key: sk-secret\r\n\
                    authorization:Bearer a:b\r\ntraceparent: 00-ab-cd-01\r\nCookie:\r\n\r\n\
                    {\"key\":\"kept\",\n\"token\": \"kept\"}";
        let clean = scrub(&record(PayloadKind::Request, text)).unwrap();
        let expected = text.replace(" sk-secret", "xxxxxxxxxx").replace("Bearer a:b", "xxxxxxxxxx");
        assert_eq!(clean, record(PayloadKind::Request, &expected));
        let cut =
            scrub(&record(PayloadKind::Response, "HTTP/1.1 200 OK\r\nSet-Cookie: a")).unwrap();
        assert!(cut.ends_with(b"Set-Cookie:xx"));
    }

    #[test]
    fn what_has_none_is_left_alone() {
        assert_eq!(scrub(&record(PayloadKind::Request, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")), None);
        assert_eq!(scrub(&record(PayloadKind::SqlText, "x\nkey: a")), None);
        assert_eq!(scrub(&[]), None);
        assert_eq!(scrub(&[Kind::Payload as u8; 30]), None);
    }
}
