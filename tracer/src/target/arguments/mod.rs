//! Where the values are that a coroutine was given: its captured arguments, by name where the
//! binary is described, and by what its code does with them where it is not.

mod code;
mod formatted;
mod state_zero;
mod variants;

use serde::{Deserialize, Serialize};

pub use code::Undescribed;

/// One step on the way to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessStep {
    /// Follows the pointer at this offset.
    Deref(u32),
    /// Goes on only if the number at `offset` is within `low..=high`, or (`inside` false) is not.
    Require {
        /// Where.
        offset: u32,
        /// Bytes of the number.
        width: u8,
        /// Least number.
        low: u64,
        /// Greatest number.
        high: u64,
        /// Within, or outside.
        inside: bool,
    },
}

/// What lies at the end of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The value itself.
    Inline {
        /// Where.
        offset: u32,
        /// Its bytes.
        len: u16,
    },
    /// A pointer to bytes, and their number.
    Slice {
        /// Where the pointer is.
        offset: u32,
        /// Where the length is.
        len_offset: u32,
    },
}

/// What the bytes mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Text.
    Text,
    /// A UUID, in the order in which it is written.
    Uuid,
    /// 0 or 1.
    Bool,
    /// A number without sign.
    Unsigned,
    /// A number with sign.
    Signed,
    /// An enum's discriminant.
    Variant {
        /// Its values that mean a certain variant.
        names: Vec<(u64, String)>,
        /// What every other value means.
        other: Option<String>,
    },
}

/// The way from a coroutine that has not begun to a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Steps from the coroutine's address.
    pub steps: Vec<AccessStep>,
    /// Where the last one leads.
    pub place: Place,
    /// What is there.
    pub shape: Shape,
}

/// A value that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedArgument<'a> {
    /// The argument's name, then the fields to it: `agent`, `id`.
    pub path: &'a [String],
    /// Its type, for code that is not described: `str`, or a path.
    pub r#type: Option<&'a str>,
}

/// Where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundArgument {
    /// Ways to it. More than one: each leads to what may be it, and the values must decide.
    pub accesses: Vec<Access>,
    /// Its type as DWARF or the profile has it, for a person.
    pub r#type: String,
}
