//! How to get at a value of the target: a few steps from an address that a probe knows. Plain
//! data, made by user space from DWARF or machine code, carried out by one generic routine.

/// Fetches that a plan can hold; also the size of the table `FETCHES`.
pub const MAX_FETCHES: u32 = 1024;

/// Steps of one fetch.
pub const MAX_STEPS: usize = 6;

/// Fetches of one function.
pub const MAX_PER_FUNCTION: usize = 8;

/// What a [`Step`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Follows the pointer at `offset`; a null pointer ends the fetch.
    Deref = 1,
    /// Goes on only if the number at `offset` lies within `low..=high`.
    Within = 2,
    /// Goes on only if it does not.
    Outside = 3,
}

/// One step from one place in the target's memory to the next. 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Step {
    /// [`Op`] as a number.
    pub op: u8,
    /// Bytes of the number that is compared: 1, 2, 4 or 8.
    pub width: u8,
    /// Zero.
    pub reserved: u16,
    /// Where, from the place reached so far.
    pub offset: u32,
    /// Least number.
    pub low: u64,
    /// Greatest number.
    pub high: u64,
}

/// What a fetch takes from where its steps have led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Take {
    /// `most` bytes at `offset`.
    Bytes = 0,
    /// The bytes that a pointer at `offset` and a length at `len_offset` describe, at most `most`.
    Slice = 1,
}

/// From where a fetch sets out, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Origin {
    /// The coroutine, before it runs for the first time.
    Captured = 0,
    /// The memory that the result is returned through, when it has ended.
    Result = 1,
}

/// One fetch: an entry of the map `FETCHES`. 160 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fetch {
    /// The steps; only the first `steps_len` count.
    pub steps: [Step; MAX_STEPS],
    /// Where the value, or the pointer to it, lies in the end.
    pub offset: u32,
    /// Where the length lies ([`Take::Slice`]).
    pub len_offset: u32,
    /// Most bytes taken.
    pub most: u16,
    /// The next fetch of the same function, from 1; 0: none.
    pub next: u16,
    /// Steps to take.
    pub steps_len: u8,
    /// [`Take`] as a number.
    pub take: u8,
    /// [`Origin`] as a number.
    pub from: u8,
    /// Comes back with the value, so that user space knows what it is.
    pub slot: u8,
}

const _: () = assert!(size_of::<Step>() == 24 && size_of::<Fetch>() == 160);
