//! What each fuzz target does with an input: the readers must neither panic nor hang, and what they
//! say must not depend on how the input is cut.

use tracer::protocol::{EventStream, Gunzip, Head, Json, Message, Part, Path, Piece, Sink};
use tracer::protocol::{RequestHead, ResponseHead};

/// The size of the pieces, and the input itself.
fn split(input: &[u8]) -> Option<(usize, &[u8])> {
    let (&step, rest) = input.split_first()?;
    Some((usize::from(step).max(1), rest))
}

/// Requests and responses.
pub fn http(input: &[u8]) {
    let Some((step, bytes)) = split(input) else { return };
    message::<RequestHead>(bytes, step);
    message::<ResponseHead>(bytes, step);
}

fn message<H: Head + PartialEq + std::fmt::Debug>(bytes: &[u8], step: usize) {
    let read = |step: usize, most: usize| {
        let (mut message, mut body) = (Message::<H>::default(), Vec::new());
        for (n, piece) in bytes.chunks(step).enumerate() {
            let part = Part {
                offset: (n * step) as u64,
                len: piece.len() as u64,
                bytes: &piece[..piece.len().min(most)],
                tail: [0; 8],
            };
            message.feed(&part, |bytes| body.extend_from_slice(bytes));
        }
        (message, body)
    };
    let (whole, body) = read(bytes.len().max(1), usize::MAX);
    let (pieces, same) = read(step, usize::MAX);
    assert_eq!(whole.head(), pieces.head());
    assert_eq!(whole.is_complete(), pieces.is_complete());
    assert_eq!(body, same);
    // With bytes missing from every piece.
    read(step, 3);
}

const PATHS: &[Path] =
    &[&["model"], &["usage", "output_tokens"], &["message", "usage", "input_tokens"]];

/// JSON documents.
pub fn json(input: &[u8]) {
    let Some((step, bytes)) = split(input) else { return };
    let read = |step: usize| {
        let mut json = Json::new(PATHS);
        bytes.chunks(step).for_each(|piece| json.feed(piece));
        json
    };
    let (whole, pieces) = (read(bytes.len().max(1)), read(step));
    assert_eq!(whole.is_complete(), pieces.is_complete());
    assert_eq!(whole.is_bad(), pieces.is_bad());
    for path in 0..PATHS.len() {
        assert_eq!(whole.get(path), pieces.get(path));
    }
}

/// Server-sent events.
pub fn event_stream(input: &[u8]) {
    let Some((step, bytes)) = split(input) else { return };
    let read = |step: usize| {
        let (mut stream, mut events, mut data) = (EventStream::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            stream.feed(piece, |piece| match piece {
                Piece::Data(bytes) => data.extend_from_slice(bytes),
                Piece::End => events.push(std::mem::take(&mut data)),
            });
        }
        events
    };
    assert_eq!(read(bytes.len().max(1)), read(step));
}

/// Bodies coded with gzip.
pub fn gzip(input: &[u8]) {
    struct Count(u64);
    impl Sink for Count {
        fn take(&mut self, bytes: &[u8]) {
            self.0 += bytes.len() as u64;
        }
    }
    let Some((step, bytes)) = split(input) else { return };
    let read = |step: usize| {
        let mut gunzip = Gunzip::new(Count(0));
        bytes.chunks(step).for_each(|piece| gunzip.feed(piece));
        (gunzip.finish(), gunzip.sink().0)
    };
    let (whole, pieces) = (read(bytes.len().max(1)), read(step));
    assert_eq!(whole.0, pieces.0);
}
