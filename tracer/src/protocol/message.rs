//! One HTTP/1 message, as it comes over a connection: its head, its body, its end.

use super::chunked::Chunks;
use super::head::{Framing, Head, Parsed};

/// Longest head that is collected.
const MAX_HEAD: usize = 16 << 10;
/// The last chunk, behind the end of the one before it.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// A part of a message.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Bytes of the message before it.
    pub offset: u64,
    /// How many bytes it stands for.
    pub len: u64,
    /// The first of them.
    pub bytes: &'a [u8],
    /// The last of them, where `len` exceeds `bytes.len()`.
    pub tail: [u8; 8],
}

/// Reads a message. Interim responses before it are skipped.
#[derive(Debug)]
pub struct Message<H> {
    state: State,
    head: Option<H>,
    /// Bytes of the message so far.
    at: u64,
    /// Bytes of a head that is not whole yet.
    collected: Vec<u8>,
    bodiless: bool,
    damaged: bool,
    excess: bool,
    foreign: bool,
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunks),
    /// Chunks of which some were missed: the last bytes, over all parts.
    Lost([u8; 8]),
    /// Until the end of the connection.
    Open,
    Complete,
    /// Not HTTP/1, or cut where nothing tells the rest.
    Opaque,
}

impl<H> Default for Message<H> {
    fn default() -> Self {
        Self {
            state: State::Head,
            head: None,
            at: 0,
            collected: Vec::new(),
            bodiless: false,
            damaged: false,
            excess: false,
            foreign: false,
        }
    }
}

impl<H: Head> Message<H> {
    /// Its head, once it was read.
    pub const fn head(&self) -> Option<&H> {
        self.head.as_ref()
    }

    /// It has ended.
    pub const fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// It is no message of HTTP/1, or where it ends cannot be told.
    pub const fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque)
    }

    /// What stands where its head should be is none.
    pub const fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Its end was told by its head, and has not come.
    pub const fn is_cut(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_) | State::Lost(_))
    }

    /// Parts of the body are missing.
    pub const fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// More came behind its end: another message.
    pub const fn has_excess(&self) -> bool {
        self.excess
    }

    /// Nothing of it was seen yet.
    pub const fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// It has no body, whatever its head says: the response to HEAD or CONNECT.
    pub const fn without_body(&mut self) {
        self.bodiless = true;
    }

    /// Takes in the next part; `body` is handed the bytes of the body as they come, until some
    /// are missing.
    pub fn feed(&mut self, part: &Part<'_>, mut body: impl FnMut(&[u8])) {
        let Part { offset, len, bytes, tail } = *part;
        if offset < self.at {
            // What was seen before cannot be told from what was not.
            self.damaged = true;
            return;
        }
        if offset > self.at {
            self.skip(offset - self.at, [0; 8]);
        }
        self.take(bytes, &mut body);
        let missing = len.saturating_sub(bytes.len() as u64);
        if missing != 0 {
            self.skip(missing, tail);
        }
        self.at = offset.saturating_add(len.max(bytes.len() as u64));
        if let State::Lost(recent) = &self.state
            && recent.ends_with(LAST_CHUNK)
        {
            self.state = State::Complete;
        }
    }

    fn take(&mut self, mut bytes: &[u8], body: &mut impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head => match self.take_head(bytes) {
                    Some(rest) => bytes = rest,
                    None => return,
                },
                State::Length(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= len as u64;
                    if *left == 0 {
                        self.state = State::Complete;
                    }
                    if !self.damaged {
                        body(&bytes[..len]);
                    }
                    bytes = &bytes[len..];
                }
                State::Chunked(chunks) => {
                    let used = chunks.feed(bytes, &mut *body);
                    bytes = &bytes[used..];
                    if chunks.is_done() {
                        self.state = State::Complete;
                    } else if chunks.is_bad() {
                        self.give_up();
                    }
                }
                State::Lost(recent) => {
                    remember(recent, bytes);
                    return;
                }
                State::Open => {
                    if !self.damaged {
                        body(bytes);
                    }
                    return;
                }
                State::Complete => {
                    self.excess = true;
                    return;
                }
                State::Opaque => return,
            }
        }
    }

    /// Reads on in the head; what comes behind it, or `None` if it goes on.
    fn take_head<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let before = self.collected.len();
        if before == 0 {
            // The common case: all of it in one part.
            if let Parsed::Whole(head, len) = H::parse(bytes) {
                self.begin_body(head);
                return bytes.get(len..);
            }
        }
        let room = MAX_HEAD - before;
        self.collected.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match H::parse(&self.collected) {
            Parsed::Whole(head, len) => {
                self.collected = Vec::new();
                self.begin_body(head);
                bytes.get(len.saturating_sub(before)..)
            }
            Parsed::Partial if bytes.len() < room => None,
            Parsed::Partial => {
                self.give_up();
                None
            }
            Parsed::Bad => {
                self.foreign = true;
                self.give_up();
                None
            }
        }
    }

    fn begin_body(&mut self, head: H) {
        if head.is_interim() {
            return;
        }
        self.state = match head.framing() {
            _ if self.bodiless => State::Complete,
            Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunks::default()),
            Framing::Close => State::Open,
        };
        self.head = Some(head);
    }

    /// `len` bytes were not seen, or only their `tail`.
    fn skip(&mut self, len: u64, tail: [u8; 8]) {
        match &mut self.state {
            State::Head => self.give_up(),
            State::Length(left) if *left < len => {
                self.state = State::Complete;
                self.damaged = true;
                self.excess = true;
            }
            State::Length(left) => {
                self.damaged = true;
                *left -= len;
                if *left == 0 {
                    self.state = State::Complete;
                }
            }
            State::Chunked(_) => {
                self.damaged = true;
                self.state = State::Lost(tail);
            }
            State::Lost(recent) => *recent = tail,
            State::Open => self.damaged = true,
            State::Complete => self.excess = true,
            State::Opaque => {}
        }
    }

    fn give_up(&mut self) {
        self.state = State::Opaque;
        self.damaged = true;
        self.collected = Vec::new();
    }
}

fn remember(recent: &mut [u8; 8], bytes: &[u8]) {
    let last = &bytes[bytes.len().saturating_sub(recent.len())..];
    recent.rotate_left(last.len() % 8);
    let from = recent.len() - last.len();
    recent[from..].copy_from_slice(last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{RequestHead, ResponseHead};
    use proptest::prelude::*;

    /// Reads a response that comes in `pieces`, of which each record holds `most` bytes.
    fn read(pieces: &[&[u8]], most: usize) -> (Message<ResponseHead>, Vec<u8>, Option<usize>) {
        let (mut message, mut body, mut offset) = (Message::default(), vec![], 0);
        let mut complete = None;
        for (at, piece) in pieces.iter().enumerate() {
            let bytes = &piece[..piece.len().min(most)];
            let mut tail = [0; 8];
            if piece.len() > most {
                tail.copy_from_slice(&piece[piece.len() - 8..]);
            }
            let len = piece.len() as u64;
            message.feed(&Part { offset, len, bytes, tail }, |bytes| body.extend_from_slice(bytes));
            offset += len;
            if message.is_complete() {
                complete = complete.or(Some(at));
            }
        }
        (message, body, complete)
    }

    const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";

    #[test]
    fn counts_a_length() {
        let (_, body, complete) = read(&[LENGTH, b"12345", b"67890"], 512);
        assert_eq!((body.as_slice(), complete), (&b"1234567890"[..], Some(2)));
        assert_eq!(read(&[LENGTH, b"123456789"], 512).2, None);
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n"], 512).2, Some(0));
        // Of a long body only the beginning is there: its end is told all the same.
        let long = [b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", &[b'x'; 900][..]].concat();
        let (message, body, complete) = read(&[&long[..600], &long[600..]], 512);
        assert_eq!((message.is_damaged(), body.len() < 900, complete), (true, true, Some(1)));
    }

    #[test]
    fn the_last_chunk_is_found_even_behind_what_was_not_captured() {
        let (_, body, complete) = read(&[CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n"], 512);
        assert_eq!((body.as_slice(), complete), (&b"abc"[..], Some(2)));
        let whole = [CHUNKED, b"258\r\n", &[b'x'; 600], b"\r\n0\r\n\r\n"].concat();
        let (message, _, complete) = read(&[&whole], 512);
        assert_eq!((message.is_damaged(), complete), (true, Some(0)));
        assert_eq!(read(&[&whole[..whole.len() - 3], b"\n\r\n"], 512).2, Some(1));
        // Data that only looks like it.
        assert_eq!(read(&[CHUNKED, b"7\r\n\r\n0\r\n\r\n"], 512).2, None);
    }

    #[test]
    fn interim_and_bodiless_responses() {
        let both = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", LENGTH, b"1234567890"].concat();
        let (message, body, complete) = read(&[&both], 512);
        assert_eq!((body.len(), complete, message.has_excess()), (10, Some(0), false));
        let split = [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], LENGTH, b"1234567890"];
        assert_eq!(read(&split, 512).2, Some(2));
        assert_eq!(read(&[b"HTTP/1.1 204 No Content\r\n\r\n"], 512).2, Some(0));
        let mut head = Message::<ResponseHead>::default();
        head.without_body();
        let len = LENGTH.len() as u64;
        head.feed(&Part { offset: 0, len, bytes: LENGTH, tail: [0; 8] }, |_| {});
        assert!(head.is_complete());
    }

    #[test]
    fn what_comes_behind_the_end_is_another_message() {
        let mut two = Message::<RequestHead>::default();
        let bytes = b"GET / HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n";
        two.feed(&Part { offset: 0, len: bytes.len() as u64, bytes, tail: [0; 8] }, |_| {});
        assert!(two.is_complete() && two.has_excess());
    }

    #[test]
    fn what_is_not_http_is_left_alone() {
        let (message, ..) = read(&[b"\0\0\x12\x04\0\0\0\0\0", b"0\r\n\r\n"], 512);
        assert!(message.is_opaque() && message.is_foreign());
        assert!(read(&[&[b'H'; 500][..]; 50], 512).0.is_opaque());
        let (message, body, complete) = read(&[b"HTTP/1.1 200 OK\r\n\r\nuntil close"], 512);
        assert_eq!((body.as_slice(), complete), (&b"until close"[..], None));
        assert!(!message.is_cut() && !message.is_opaque());
    }

    #[test]
    fn a_gap_is_noticed() {
        let mut message = Message::<ResponseHead>::default();
        let mut body = vec![];
        let mut feed = |offset, bytes: &[u8]| {
            let part = Part { offset, len: bytes.len() as u64, bytes, tail: [0; 8] };
            message.feed(&part, |bytes| body.extend_from_slice(bytes));
        };
        feed(0, LENGTH);
        feed(LENGTH.len() as u64 + 3, b"4567");
        feed(LENGTH.len() as u64 + 7, b"890");
        assert!(message.is_complete() && message.is_damaged() && body.is_empty());
    }

    proptest! {
        #[test]
        fn however_a_response_is_cut_its_end_is_found_and_nothing_before(
            chunks in prop::collection::vec(prop::collection::vec(b'a'..=b'z', 1..700), 0..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut whole = CHUNKED.to_vec();
            let mut expected = vec![];
            for chunk in chunks {
                whole.extend(format!("{:x}\r\n", chunk.len()).bytes());
                whole.extend(&chunk);
                whole.extend(b"\r\n");
                expected.extend(chunk);
            }
            whole.extend(b"0\r\n\r\n");
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|at| &whole[at[0]..at[1]]).collect();
            let (_, body, complete) = read(&pieces, 4096);
            prop_assert_eq!((body, complete), (expected, Some(pieces.len() - 1)));
        }

        #[test]
        fn noise_never_panics(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..6),
            head in any::<bool>(),
            most in 8usize..600,
        ) {
            let mut all: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            if head {
                all.insert(0, CHUNKED);
            }
            read(&all, most.max(8));
        }
    }
}
