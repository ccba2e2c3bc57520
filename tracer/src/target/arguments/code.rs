//! Captured arguments of code that nothing describes, by what it does with them.
//!
//! - Text: two captured words side by side may be a `&str`. What they hold must decide.
//! - Anything that is formatted: a captured pointer plus an offset, handed to the formatting
//!   machinery together with the function that formats values of one type, points to such a value.

use iced_x86::Instruction;

use super::super::scan::Scan;
use super::super::sites::body;
use super::super::{Coroutine, Image};
use super::formatted::{Everywhere, everywhere};
use super::state_zero::{StateZero, Value, explore};
use super::variants;
use super::{Access, AccessStep, FoundArgument, Place, Shape, WantedArgument};

/// Longest text that is taken for one.
const MAX_TEXT: u64 = 64;
/// Most pairs of words that may be a `&str`.
const MAX_PAIRS: usize = 6;

/// What the code of one coroutine says of its arguments.
pub struct Undescribed<'image> {
    image: &'image Image,
    scan: &'image Scan,
    zero: StateZero,
    everywhere: Everywhere,
}

impl std::fmt::Debug for Undescribed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undescribed").field("zero", &self.zero).finish_non_exhaustive()
    }
}

impl<'image> Undescribed<'image> {
    /// Reads the code of `coroutine`'s first copy; all copies have one layout.
    pub(in crate::target) fn new(
        image: &'image Image,
        scan: &'image Scan,
        coroutine: &Coroutine,
    ) -> Self {
        let start = coroutine.function.copies.first().map_or(0, |(addr, _)| *addr);
        let code: Vec<Instruction> = body(image, start);
        Self {
            image,
            scan,
            zero: explore(image, scan, &code, coroutine.state),
            everywhere: everywhere(image, &code, coroutine.state.self_register),
        }
    }

    /// Where a value is; or why that cannot be told.
    ///
    /// # Errors
    /// A reason, for a person.
    pub fn find(&self, wanted: &WantedArgument<'_>) -> Result<FoundArgument, String> {
        let Some(r#type) = wanted.r#type else {
            return Err("the profile does not give its `type`".to_owned());
        };
        if self.zero.captured.is_empty() {
            return Err("the code shows no captured argument".to_owned());
        }
        let accesses = if r#type == "str" { self.texts() } else { self.formatted(r#type)? };
        if accesses.is_empty() {
            return Err(format!(
                "the code shows no captured argument that could be a `{}`",
                r#type
            ));
        }
        Ok(FoundArgument { accesses, r#type: r#type.to_owned() })
    }

    /// Pairs of captured words that may be pointer and length.
    fn texts(&self) -> Vec<Access> {
        let words = &self.zero.captured;
        let pairs = words.iter().filter(|slot| words.contains(&(**slot + 8)));
        let all: Vec<_> = pairs
            .map(|&slot| Access {
                steps: vec![AccessStep::Require {
                    offset: slot + 8,
                    width: 8,
                    low: 1,
                    high: MAX_TEXT,
                    inside: true,
                }],
                place: Place::Slice { offset: slot, len_offset: slot + 8 },
                shape: Shape::Text,
            })
            .collect();
        // So many that one would be right by chance.
        if all.len() > MAX_PAIRS { Vec::new() } else { all }
    }

    /// The one captured pointer and offset at which values of this type are formatted.
    fn formatted(&self, r#type: &str) -> Result<Vec<Access>, String> {
        let first = self.zero.formatted.iter();
        let first = first.filter_map(|(value, function)| match value {
            Value::Captured { slot, offset } => Some((*slot, *offset, *function)),
            _ => None,
        });
        let later = self.everywhere.formatted.iter();
        let later = later.filter_map(|(value, function)| match value {
            Value::Captured { slot, offset } => {
                Some((self.captured_as(*slot)?, *offset, *function))
            }
            _ => None,
        });
        let mut places: Vec<(u32, i64)> = Vec::new();
        let mut functions: Vec<u64> = Vec::new();
        for (slot, offset, function) in first.chain(later) {
            if self.formats(function, r#type) {
                places.push((slot, offset));
                functions.push(function);
            }
        }
        places.sort_unstable();
        places.dedup();
        functions.sort_unstable();
        functions.dedup();
        let (slot, offset) = match places[..] {
            [] => return Ok(Vec::new()),
            [place] => place,
            _ => {
                return Err(format!(
                    "the code formats {} values of type `{}`: which is meant \
                     is not certain",
                    places.len(),
                    r#type
                ));
            }
        };
        let Ok(offset) = u32::try_from(offset) else { return Ok(Vec::new()) };
        let (shape, len) = if r#type == "Uuid" || r#type.ends_with("::Uuid") {
            (Shape::Uuid, 16)
        } else {
            let names = functions.iter().map(|f| variants::of_debug(self.image, self.scan, *f));
            let Some(names) = names.max_by_key(Vec::len).filter(|names| !names.is_empty()) else {
                return Err(format!(
                    "the names of `{}`'s variants cannot be read from its Debug",
                    r#type
                ));
            };
            (Shape::Variant { names, other: None }, 1)
        };
        let steps = vec![AccessStep::Deref(slot)];
        Ok(vec![Access { steps, place: Place::Inline { offset, len }, shape }])
    }

    /// The captured word that the word at `slot` of the running coroutine is certainly a copy of.
    fn captured_as(&self, slot: u32) -> Option<u32> {
        let stores = |slot: u32| {
            let at = i64::from(slot);
            self.everywhere.written.iter().filter(move |(from, to)| *from < at + 8 && at < *to)
        };
        if let Some(captured) = self.zero.moved.get(&slot) {
            // Moved there and nothing else.
            return (stores(slot).count() <= 1).then_some(*captured);
        }
        (self.zero.captured.contains(&slot) && stores(slot).next().is_none()).then_some(slot)
    }

    /// Whether the function is `Display::fmt` or the like of this type, and of no other.
    fn formats(&self, function: u64, r#type: &str) -> bool {
        let names = self.image.names_at(function);
        let fits = |name: &str| {
            let name = name.trim_start_matches('<');
            name.strip_prefix(r#type).is_some_and(|rest| rest.starts_with(" as core::fmt::"))
                || name.contains("<impl core::fmt::")
                    && name.contains(&format!(" for {}>::fmt", r#type))
        };
        !names.is_empty() && names.iter().all(|name| fits(name))
    }
}
