//! Server-sent events, as the WHATWG's HTML standard has them: the data of each event.

/// Longest field name that means anything.
const MAX_NAME: usize = 8;

/// What comes out of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The next bytes of an event's data.
    Data(&'a [u8]),
    /// The event is whole.
    End,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub struct EventStream {
    line: Line,
    /// The field's name so far.
    name: Vec<u8>,
    /// The line before ended with CR: an LF belongs to it.
    after_cr: bool,
    /// The event has data lines.
    has_data: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// At its beginning, or in its field's name.
    #[default]
    Name,
    /// Behind the colon of a data field: one space is not part of it.
    Space,
    Data,
    /// Another field, or a comment.
    Other,
}

impl EventStream {
    /// Takes in the next bytes.
    pub fn feed(&mut self, bytes: &[u8], mut out: impl FnMut(Piece<'_>)) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let after_cr = std::mem::take(&mut self.after_cr);
            if after_cr && byte == b'\n' {
                at += 1;
                continue;
            }
            match self.line {
                Line::Space => {
                    self.line = Line::Data;
                    at += usize::from(byte == b' ');
                }
                Line::Data | Line::Other => {
                    let rest = &bytes[at..];
                    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
                    let len = end.unwrap_or(rest.len());
                    if self.line == Line::Data && len != 0 {
                        out(Piece::Data(&rest[..len]));
                    }
                    at += len;
                    if let Some(end) = end {
                        self.end_line(rest[end]);
                        at += 1;
                    }
                }
                Line::Name => {
                    at += 1;
                    match byte {
                        b'\r' | b'\n' => {
                            if self.name.is_empty() {
                                if std::mem::take(&mut self.has_data) {
                                    out(Piece::End);
                                }
                            } else if self.name == b"data" {
                                self.begin_data(&mut out);
                            }
                            self.end_line(byte);
                        }
                        b':' if self.name == b"data" => {
                            self.begin_data(&mut out);
                            self.line = Line::Space;
                        }
                        b':' => self.line = Line::Other,
                        _ if self.name.len() < MAX_NAME => self.name.push(byte),
                        _ => self.line = Line::Other,
                    }
                }
            }
        }
    }

    /// Lines of data are joined by line feeds.
    fn begin_data(&mut self, out: &mut impl FnMut(Piece<'_>)) {
        if std::mem::replace(&mut self.has_data, true) {
            out(Piece::Data(b"\n"));
        }
    }

    fn end_line(&mut self, end: u8) {
        self.line = Line::Name;
        self.name.clear();
        self.after_cr = end == b'\r';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let (mut stream, mut events, mut data) = (EventStream::default(), vec![], vec![]);
        for piece in pieces {
            stream.feed(piece, |piece| match piece {
                Piece::Data(bytes) => data.extend_from_slice(bytes),
                Piece::End => {
                    events.push(String::from_utf8(std::mem::take(&mut data)).unwrap());
                }
            });
        }
        events
    }

    #[test]
    fn data_lines_make_events() {
        let text = "event: a\ndata: one\n\n: ping\n\nid: 1\ndata:two\ndata\ndata:  three\r\n\r\n\
                    database: x\n\ndata: {\"a\":1}\r\rdata: cut";
        let expected = ["one", "two\n\n three", "{\"a\":1}"];
        assert_eq!(events(&[text.as_bytes()]), expected);
        for step in 1..8 {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
            assert_eq!(events(&pieces), expected, "{step}");
        }
    }
}
