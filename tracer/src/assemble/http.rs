//! When is an HTTP/1 response complete? Judged from the beginnings and ends of what was read,
//! since only so much of each read is captured.

/// Longest head that is collected over several reads.
const MAX_HEAD: usize = 16 << 10;
/// Most header lines in a head.
const MAX_HEADERS: usize = 128;
/// The last chunk, behind the end of the one before it.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// One request and its response.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// The request's method is HEAD: its response has no body, whatever its head says.
    head_request: bool,
    /// Something was written already, so that the method is known or missed.
    written: bool,
    state: State,
    head: Vec<u8>,
    /// The last bytes read, over all reads.
    recent: [u8; 8],
    status: Option<u16>,
}

#[derive(Debug, Default)]
enum State {
    /// The head has not been read to its end.
    #[default]
    Head,
    /// So many bytes of the body are missing.
    Length(u64),
    /// Until the last chunk.
    Chunked,
    /// Where it ends cannot be told.
    Opaque,
}

impl Exchange {
    /// The beginning of what was written.
    pub fn write(&mut self, bytes: &[u8]) {
        if !self.written {
            self.written = true;
            self.head_request = bytes.starts_with(b"HEAD ");
        }
    }

    /// `len` bytes were read, of which `first` are the first and, where there are more, `tail`
    /// the last. Whether they complete the response.
    pub fn read(&mut self, len: u32, first: &[u8], tail: [u8; 8]) -> bool {
        let missing = u64::from(len).saturating_sub(first.len() as u64);
        self.remember(if missing == 0 { first } else { &tail });
        match &mut self.state {
            State::Head => self.read_head(first, missing),
            State::Length(left) => {
                *left = left.saturating_sub(len.into());
                *left == 0
            }
            State::Chunked => self.recent.ends_with(LAST_CHUNK) || first == &LAST_CHUNK[2..],
            State::Opaque => false,
        }
    }

    /// The response's status, once its head was read.
    pub const fn status(&self) -> Option<u16> {
        self.status
    }

    fn remember(&mut self, last: &[u8]) {
        let last = &last[last.len().saturating_sub(self.recent.len())..];
        self.recent.rotate_left(last.len() % 8);
        let from = self.recent.len() - last.len();
        self.recent[from..].copy_from_slice(last);
    }

    fn read_head(&mut self, bytes: &[u8], missing: u64) -> bool {
        if self.head.len() + bytes.len() > MAX_HEAD {
            return self.give_up();
        }
        self.head.extend_from_slice(bytes);
        loop {
            match parse(&self.head) {
                Some(Head { len: Some(len), status, .. }) if is_interim(status) => {
                    self.head.drain(..len);
                    if self.head.is_empty() {
                        // What follows begins in the middle, if it was not captured.
                        return missing != 0 && self.give_up();
                    }
                }
                Some(Head { len: Some(len), status, framing }) => {
                    self.status = Some(status);
                    let read = (self.head.len() - len) as u64 + missing;
                    self.head = Vec::new();
                    return self.begin_body(status, framing, read);
                }
                // It goes on in the next read.
                Some(Head { len: None, .. }) if missing == 0 => return false,
                Some(Head { len: None, .. }) => return self.read_cut_head(),
                None => return self.give_up(),
            }
        }
    }

    fn begin_body(&mut self, status: u16, framing: Framing, read: u64) -> bool {
        if self.head_request || matches!(status, 101 | 204 | 304) {
            return true;
        }
        match framing {
            Framing::Chunked => {
                self.state = State::Chunked;
                self.recent.ends_with(LAST_CHUNK)
            }
            Framing::Length(length) if length <= read => true,
            Framing::Length(length) => {
                self.state = State::Length(length - read);
                false
            }
            Framing::Close => self.give_up(),
        }
    }

    /// The head's end was read but not captured: what its captured lines say must do.
    fn read_cut_head(&mut self) -> bool {
        let lines = self.head.windows(2).rposition(|end| end == b"\r\n").map_or(0, |at| at + 2);
        self.head.truncate(lines);
        self.head.extend_from_slice(b"\r\n");
        let Some(Head { len: Some(_), status, framing }) = parse(&self.head) else {
            return self.give_up();
        };
        if is_interim(status) {
            return self.give_up();
        }
        self.status = Some(status);
        self.head = Vec::new();
        match framing {
            _ if self.head_request || matches!(status, 101 | 204 | 304) => true,
            // How much of what was read is body is not known.
            Framing::Length(_) => self.give_up(),
            // If a later line gives a length, then no read will end like a last chunk.
            Framing::Chunked | Framing::Close => {
                self.state = State::Chunked;
                self.recent.ends_with(LAST_CHUNK)
            }
        }
    }

    fn give_up(&mut self) -> bool {
        self.state = State::Opaque;
        self.head = Vec::new();
        false
    }
}

/// An interim response, after which the final one follows. (101 is the last one in HTTP.)
const fn is_interim(status: u16) -> bool {
    status / 100 == 1 && status != 101
}

enum Framing {
    Length(u64),
    Chunked,
    Close,
}

struct Head {
    /// Its length; `None` where it is not complete.
    len: Option<usize>,
    status: u16,
    framing: Framing,
}

/// `None`: not a response's head.
fn parse(bytes: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes).ok()? {
        httparse::Status::Complete(len) => Some(len),
        httparse::Status::Partial => {
            return Some(Head { len: None, status: 0, framing: Framing::Close });
        }
    };
    let mut framing = Framing::Close;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding")
            && header.value.trim_ascii().to_ascii_lowercase().ends_with(b"chunked")
        {
            framing = Framing::Chunked;
            break;
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(header.value).ok()?;
            framing = Framing::Length(digits.trim().parse().ok()?);
        }
    }
    Some(Head { len, status: response.code?, framing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads `pieces` as the kernel captures them; the number of the one that completes it.
    fn complete(pieces: &[&[u8]]) -> Option<usize> {
        complete_after(b"POST / HTTP/1.1\r\n", pieces)
    }

    fn complete_after(request: &[u8], pieces: &[&[u8]]) -> Option<usize> {
        let mut exchange = Exchange::default();
        exchange.write(request);
        pieces.iter().position(|piece| {
            let first = &piece[..piece.len().min(512)];
            let mut tail = [0; 8];
            if piece.len() > first.len() {
                tail.copy_from_slice(&piece[piece.len() - 8..]);
            }
            exchange.read(piece.len() as u32, first, tail)
        })
    }

    const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n";

    #[test]
    fn counts_a_length() {
        assert_eq!(complete(&[LENGTH, b"12345", b"67890"]), Some(2));
        let whole = [LENGTH, b"1234567890"].concat();
        assert_eq!(complete(&[&whole]), Some(0));
        assert_eq!(complete(&[LENGTH, b"123456789"]), None);
        assert_eq!(complete(&[b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n"]), Some(0));
        let long = [b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", &[b'x'; 900][..]].concat();
        assert_eq!(complete(&[&long]), Some(0));
        assert_eq!(complete(&[&long[..600], &long[600..]]), Some(1));
    }

    #[test]
    fn waits_for_the_last_chunk() {
        assert_eq!(complete(&[CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n"]), Some(2));
        assert_eq!(complete(&[CHUNKED, b"3\r\nabc\r\n0\r\n", b"\r\n"]), Some(2));
        let whole = [CHUNKED, b"258\r\n", &[b'x'; 600], b"\r\n0\r\n\r\n"].concat();
        assert_eq!(complete(&[&whole]), Some(0));
        // Data that only looks like it.
        assert_eq!(complete(&[CHUNKED, b"5\r\nx10\r\n\r\n"]), None);
    }

    #[test]
    fn a_head_may_come_in_pieces_or_exceed_what_is_captured() {
        assert_eq!(
            complete(&[&LENGTH[..7], &LENGTH[7..20], &LENGTH[20..], b"1234567890"]),
            Some(3)
        );
        let padding = format!("X-Limit: {}\r\n", "9".repeat(600));
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n";
        let cut = format!("{head}{padding}\r\n3\r\nabc\r\n");
        assert_eq!(complete(&[cut.as_bytes(), b"0\r\n\r\n"]), Some(1));
        let later =
            format!("HTTP/1.1 200 OK\r\n{padding}transfer-encoding: chunked\r\n\r\n1\r\na\r\n");
        assert_eq!(complete(&[later.as_bytes(), b"0\r\n\r\n"]), Some(1));
        let unknown = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n{padding}\r\nabc");
        assert_eq!(complete(&[unknown.as_bytes()]), None);
    }

    #[test]
    fn interim_and_bodiless_responses() {
        assert_eq!(complete(&[b"HTTP/1.1 100 Continue\r\n\r\n", LENGTH, b"1234567890"]), Some(2));
        let both = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", LENGTH, b"1234567890"].concat();
        assert_eq!(complete(&[&both]), Some(0));
        assert_eq!(complete(&[b"HTTP/1.1 204 No Content\r\n\r\n"]), Some(0));
        assert_eq!(complete(&[b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"]), Some(0));
        assert_eq!(complete_after(b"HEAD / HTTP/1.1\r\n", &[LENGTH]), Some(0));
    }

    #[test]
    fn what_is_not_http_is_left_alone() {
        assert_eq!(complete(&[b"\0\0\x12\x04\0\0\0\0\0", b"0\r\n\r\n"]), None);
        assert_eq!(complete(&[b"HTTP/1.1 200 OK\r\n\r\n", b"until close"]), None);
        assert_eq!(complete(&[b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]), None);
        assert_eq!(complete(&[&[b'H'; 500][..]; 50]), None);
    }

    proptest! {
        #[test]
        fn however_a_response_is_cut_its_end_is_found_and_nothing_before(
            body in prop::collection::vec(prop::collection::vec(b'a'..=b'z', 1..700), 0..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut whole = CHUNKED.to_vec();
            for chunk in body {
                whole.extend(format!("{:x}\r\n", chunk.len()).bytes());
                whole.extend(chunk);
                whole.extend(b"\r\n");
            }
            whole.extend(b"0\r\n\r\n");
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|at| &whole[at[0]..at[1]]).collect();
            prop_assert_eq!(complete(&pieces), Some(pieces.len() - 1));
        }

        #[test]
        fn noise_never_panics(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..6),
            head in any::<bool>(),
        ) {
            let mut all: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            if head {
                all.insert(0, CHUNKED);
            }
            complete(&all);
        }
    }
}
