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
            Parsed::Partial | Parsed::Bad => {
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
