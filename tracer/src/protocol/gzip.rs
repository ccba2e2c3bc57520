//! Bodies coded with gzip (RFC 1952), undone as they come.

use std::io::{self, Write};

use flate2::write::GzDecoder;

/// A body that grows beyond this is given up: it is no answer, or it is a bomb.
const MAX_OUTPUT: u64 = 64 << 20;

/// What takes bytes in.
pub trait Sink {
    /// Takes in the next bytes.
    fn take(&mut self, bytes: &[u8]);
}

/// Undoes gzip and hands the bytes to a sink. What came out is certain only once
/// [`Gunzip::finish`] says so: before that its checksum was not read.
#[derive(Debug)]
pub struct Gunzip<S: Sink> {
    decoder: GzDecoder<Bounded<S>>,
    bad: bool,
}

#[derive(Debug)]
struct Bounded<S> {
    sink: S,
    left: u64,
}

impl<S: Sink> Write for Bounded<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("too large when undone"))?;
        self.sink.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Sink> Gunzip<S> {
    /// Hands what comes out to `sink`.
    pub fn new(sink: S) -> Self {
        Self { decoder: GzDecoder::new(Bounded { sink, left: MAX_OUTPUT }), bad: false }
    }

    /// Takes in the next bytes. Once they make no sense, the rest is ignored.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bad = self.bad || self.decoder.write_all(bytes).is_err();
    }

    /// Everything has come: whether it was whole and its checksum right.
    pub fn finish(&mut self) -> bool {
        self.bad = self.bad || self.decoder.try_finish().is_err();
        !self.bad
    }

    /// What took the bytes in.
    pub fn sink(&self) -> &S {
        &self.decoder.get_ref().sink
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    impl Sink for Vec<u8> {
        fn take(&mut self, bytes: &[u8]) {
            self.extend_from_slice(bytes);
        }
    }

    fn zip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_was_zipped_comes_out_again_and_damage_is_noticed(
            body in prop::collection::vec(any::<u8>(), 0..2000),
            step in 1usize..50,
            cut in any::<prop::sample::Index>(),
            flip in 1u8..=255,
        ) {
            let zipped = zip(&body);
            let read = |bytes: &[u8]| {
                let mut gunzip = Gunzip::new(Vec::new());
                bytes.chunks(step).for_each(|piece| gunzip.feed(piece));
                (gunzip.finish(), gunzip.sink().clone())
            };
            prop_assert_eq!(read(&zipped), (true, body.clone()));
            prop_assert!(!read(&zipped[..cut.index(zipped.len())]).0);
            let mut damaged = zipped;
            let at = 10 + cut.index(damaged.len() - 10);
            damaged[at] ^= flip;
            let (good, out) = read(&damaged);
            prop_assert!(!good || out == body);
        }
    }

    #[test]
    fn a_bomb_is_given_up() {
        let zipped = zip(&vec![0; MAX_OUTPUT as usize + 1]);
        struct Count(u64);
        impl Sink for Count {
            fn take(&mut self, bytes: &[u8]) {
                self.0 += bytes.len() as u64;
            }
        }
        let mut gunzip = Gunzip::new(Count(0));
        gunzip.feed(&zipped);
        assert!(!gunzip.finish() && gunzip.sink().0 <= MAX_OUTPUT);
    }
}
