//! Chunked transfer coding (RFC 9112, section 7.1).

/// Takes the chunks apart.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// In the line with the size; digits so far.
    #[default]
    SizeStart,
    Size(u64, u8),
    /// In the rest of that line.
    Extension(u64),
    /// Its CR was seen.
    SizeEnd(u64),
    Data(u64),
    /// Behind the data: CR, then LF.
    DataCr,
    DataLf,
    /// In the trailer: at the beginning of a line, in one, behind its CR.
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Done,
    Bad,
}

/// Hexadecimal digits of a size: more than fit are none.
const MAX_DIGITS: u8 = 15;

impl Chunks {
    /// Takes in the next bytes, hands their data to `body`, and returns how many belonged to the
    /// chunks: all of them unless these end, or are none.
    pub fn feed(&mut self, bytes: &[u8], mut body: impl FnMut(&[u8])) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            self.state = match self.state {
                State::Data(left) => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    body(&bytes[at..at + len]);
                    at += len;
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    continue;
                }
                State::Done | State::Bad => return at,
                state => step(state, byte),
            };
            at += 1;
        }
        at
    }

    /// The last chunk and the trailer were read.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// This is no chunked body.
    pub const fn is_bad(&self) -> bool {
        matches!(self.state, State::Bad)
    }
}

fn step(state: State, byte: u8) -> State {
    let digit = || (byte as char).to_digit(16).map(u64::from);
    match (state, byte) {
        (State::SizeStart, _) => digit().map_or(State::Bad, |digit| State::Size(digit, 1)),
        (State::Size(size, _), b'\r') | (State::Extension(size), b'\r') => State::SizeEnd(size),
        (State::Size(size, _), b';' | b' ' | b'\t') => State::Extension(size),
        (State::Size(size, n), _) if n < MAX_DIGITS => {
            digit().map_or(State::Bad, |digit| State::Size(size << 4 | digit, n + 1))
        }
        (State::Extension(_), b'\n') => State::Bad,
        (State::Extension(size), _) => State::Extension(size),
        (State::SizeEnd(0), b'\n') => State::TrailerStart,
        (State::SizeEnd(size), b'\n') => State::Data(size),
        (State::DataCr, b'\r') => State::DataLf,
        (State::DataLf, b'\n') => State::SizeStart,
        (State::TrailerStart, b'\r') => State::LastLf,
        (State::TrailerStart | State::Trailer, b'\n') => State::Bad,
        (State::Trailer, b'\r') => State::TrailerLf,
        (State::TrailerStart | State::Trailer, _) => State::Trailer,
        (State::TrailerLf, b'\n') => State::TrailerStart,
        (State::LastLf, b'\n') => State::Done,
        _ => State::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<u8>, bool, bool, usize) {
        let (mut chunks, mut body, mut used) = (Chunks::default(), vec![], 0);
        for piece in pieces {
            used += chunks.feed(piece, |bytes| body.extend_from_slice(bytes));
        }
        (body, chunks.is_done(), chunks.is_bad(), used)
    }

    #[test]
    fn chunks_are_joined() {
        let whole: &[u8] = b"4\r\nWiki\r\n6;a=b\r\npedia \r\n0\r\nX: y\r\n\r\nnext";
        assert_eq!(read(&[whole]), (b"Wikipedia ".to_vec(), true, false, whole.len() - 4));
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(read(&single).0, b"Wikipedia ");
        assert!(!read(&[b"A\r\n0123456789\r\n0\r\n"]).1);
    }

    #[test]
    fn what_are_none_is_noticed() {
        for bad in
            [&b"x"[..], b"\r\n", b"4\r\nWikiX", b"4\nWiki", b"1234567890123456\r\n", b"0\r\n\n"]
        {
            assert!(read(&[bad]).2, "{bad:?}");
        }
    }
}
