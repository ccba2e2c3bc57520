//! From a path such as `agent.id` to the steps that lead from the coroutine to the value.

use super::super::{Access, AccessStep, FoundArgument, Place, Shape};
use super::units::{Units, Variants};
use super::{At, Malformed, Node};

/// Types that are passed through on the way to a value.
const MAX_TYPES: usize = 48;
/// How deep in a `Vec` its pointer lies.
const MAX_POINTER_DEPTH: usize = 8;

/// The place reached so far.
struct Way<'u, 'data> {
    units: &'u Units<'data>,
    steps: Vec<AccessStep>,
    offset: u64,
}

/// Finds a captured argument and the field of it that `path` names.
pub(super) fn find(
    units: &Units<'_>,
    env: At,
    path: &[String],
) -> Result<FoundArgument, Malformed> {
    let missing = |what: String| Malformed::Missing(what);
    let node = units.dwarf.node(env)?;
    let variants = units.variants(&node)?.ok_or_else(|| missing("no coroutine".to_owned()))?;
    let unresumed = variants.all.iter().find(|variant| variant.value == Some(0));
    let unresumed = unresumed
        .and_then(|variant| Some((variant.member.location.unwrap_or(0), variant.member.r#type?)));
    let Some((offset, at)) = unresumed else {
        return Err(missing("the coroutine's first state is not described".to_owned()));
    };
    let captured = units.members(&units.dwarf.node(at)?)?;
    // Closures capture single fields, too: `a.b` as `a__b`, by reference as `_ref__a__b`.
    let fits = |name: &str, used: usize| {
        let joined = path[..used].join("__");
        name == joined || name.strip_prefix("_ref__") == Some(&joined)
    };
    let mut lengths = (1..=path.len()).rev();
    let found = lengths.find_map(|used| {
        let member = captured.iter().find(|member| fits(&member.name, used))?;
        Some((used, member))
    });
    let Some((used, member)) = found else {
        let names: Vec<_> = captured.iter().map(|member| member.name.as_str()).collect();
        return Err(missing(format!(
            "no argument is called `{}`; there are: {}",
            path.first().map_or("", String::as_str),
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        )));
    };
    let mut way = Way { units, steps: Vec::new(), offset };
    way.advance(member.location)?;
    let at = member.r#type.ok_or_else(|| missing("an argument without a type".to_owned()))?;
    let (place, shape, r#type) = way.follow(at, &path[used..])?;
    let access = Access { steps: way.steps, place, shape };
    Ok(FoundArgument { accesses: vec![access], r#type })
}

impl Way<'_, '_> {
    fn advance(&mut self, by: Option<u64>) -> Result<(), Malformed> {
        let offset = self.offset.checked_add(by.unwrap_or(0));
        self.offset = offset
            .filter(|offset| *offset <= u64::from(u32::MAX >> 1))
            .ok_or_else(|| Malformed::Missing("a value too far away".to_owned()))?;
        Ok(())
    }

    /// The place reached, `by` bytes further.
    fn at(&self, by: u64) -> Result<u32, Malformed> {
        let offset = self.offset.checked_add(by).and_then(|offset| u32::try_from(offset).ok());
        offset.ok_or_else(|| Malformed::Missing("a value too far away".to_owned()))
    }

    fn deref(&mut self) -> Result<(), Malformed> {
        self.steps.push(AccessStep::Deref(self.at(0)?));
        self.offset = 0;
        Ok(())
    }

    fn node(&self, at: At) -> Result<Node, Malformed> {
        self.units.dwarf.node(at)
    }

    /// From a value of type `at` along the fields in `path` to what can be shown.
    fn follow(&mut self, mut at: At, path: &[String]) -> Result<(Place, Shape, String), Malformed> {
        let mut path = path.iter();
        let mut wanted = path.next();
        for _ in 0..MAX_TYPES {
            let node = self.node(at)?;
            let next = match node.tag {
                gimli::DW_TAG_pointer_type => {
                    self.deref()?;
                    node.r#type
                }
                gimli::DW_TAG_typedef | gimli::DW_TAG_const_type => node.r#type,
                _ => match wanted {
                    None => match self.value(&node)? {
                        Some((place, shape)) => return Ok((place, shape, node.name)),
                        None => self.inner(&node, None)?,
                    },
                    Some(name) => match self.field(&node, name)? {
                        Some(next) => {
                            wanted = path.next();
                            Some(next)
                        }
                        None => self.inner(&node, Some(name))?,
                    },
                },
            };
            at = next.ok_or_else(|| Malformed::Missing("a pointer to nothing".to_owned()))?;
        }
        Err(Malformed::Missing("the value lies too deep".to_owned()))
    }

    /// Goes to the field of that name, if there is one.
    fn field(&mut self, node: &Node, name: &str) -> Result<Option<At>, Malformed> {
        if node.tag != gimli::DW_TAG_structure_type {
            return Ok(None);
        }
        for member in self.units.members(node)? {
            let positional = member.name.strip_prefix("__");
            if member.name == name || positional == Some(name) {
                self.advance(member.location)?;
                return Ok(member.r#type);
            }
        }
        Ok(None)
    }

    /// Goes through a type that merely holds another: `Some`, a newtype, `Arc`.
    fn inner(&mut self, node: &Node, wanted: Option<&str>) -> Result<Option<At>, Malformed> {
        if let Some(variants) = self.units.variants(node)?
            && node.name.starts_with("Option<")
        {
            return self.some(&variants);
        }
        if node.name.starts_with("Arc<") || node.name.starts_with("Rc<") {
            return self.shared(node);
        }
        if node.tag == gimli::DW_TAG_structure_type
            && let Some((offset, r#type)) = self.units.only_member(node)?
        {
            self.advance(Some(offset))?;
            return Ok(r#type);
        }
        Err(Malformed::Missing(match wanted {
            Some(name) => format!("`{}` has no field `{name}`", node.name),
            None => format!("a value of type `{}` cannot be shown", node.name),
        }))
    }

    /// Goes on only in `Some`.
    fn some(&mut self, variants: &Variants) -> Result<Option<At>, Malformed> {
        let bad = || Malformed::Missing("an Option that is not understood".to_owned());
        let (offset, width) = variants.discriminant.ok_or_else(bad)?;
        let width = u8::try_from(width).map_err(|_| bad())?;
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(bad());
        }
        let of = |name: &str| variants.all.iter().find(|v| v.member.name == name);
        let (some, none) = (of("Some").ok_or_else(bad)?, of("None").ok_or_else(bad)?);
        let mask = if width == 8 { u64::MAX } else { (1 << (8 * u32::from(width))) - 1 };
        let (value, inside) = match (some.value, none.value) {
            (Some(value), _) => (value & mask, true),
            (None, Some(value)) => (value & mask, false),
            (None, None) => return Err(bad()),
        };
        let offset = self.at(offset)?;
        self.steps.push(AccessStep::Require { offset, width, low: value, high: value, inside });
        self.advance(some.member.location)?;
        let holder = some.member.r#type.ok_or_else(bad)?;
        let holder = self.node(holder)?;
        let member = self.units.members(&holder)?.into_iter().next().ok_or_else(bad)?;
        self.advance(member.location)?;
        Ok(member.r#type)
    }

    /// `Arc`, `Rc`: a pointer to the counters and the value.
    fn shared(&mut self, node: &Node) -> Result<Option<At>, Malformed> {
        let bad = || Malformed::Missing(format!("`{}` is not understood", node.name));
        let mut at = self.field(node, "ptr")?.ok_or_else(bad)?;
        for _ in 0..MAX_POINTER_DEPTH {
            let node = self.node(at)?;
            if node.tag == gimli::DW_TAG_pointer_type {
                self.deref()?;
                let inner = self.node(node.r#type.ok_or_else(bad)?)?;
                let data = self.field(&inner, "data")?;
                return Ok(Some(match data {
                    Some(data) => data,
                    None => self.field(&inner, "value")?.ok_or_else(bad)?,
                }));
            }
            let (offset, next) = self.units.only_member(&node)?.ok_or_else(bad)?;
            self.advance(Some(offset))?;
            at = next.ok_or_else(bad)?;
        }
        Err(bad())
    }

    /// What a value of this type is; `None` if it only holds another.
    fn value(&self, node: &Node) -> Result<Option<(Place, Shape)>, Malformed> {
        let size = node.byte_size.unwrap_or(0);
        let inline = |shape| -> Result<Option<(Place, Shape)>, Malformed> {
            Ok(Some((Place::Inline { offset: self.at(0)?, len: size as u16 }, shape)))
        };
        let is_word = matches!(size, 1 | 2 | 4 | 8);
        match node.tag {
            gimli::DW_TAG_base_type => match node.encoding {
                Some(gimli::DW_ATE_boolean) if size == 1 => inline(Shape::Bool),
                Some(gimli::DW_ATE_unsigned | gimli::DW_ATE_unsigned_char) if is_word => {
                    inline(Shape::Unsigned)
                }
                Some(gimli::DW_ATE_signed | gimli::DW_ATE_signed_char) if is_word => {
                    inline(Shape::Signed)
                }
                _ => Ok(None),
            },
            gimli::DW_TAG_enumeration_type if is_word => {
                let mut names = Vec::new();
                for child in self.units.dwarf.children(node.at)? {
                    let child = self.node(child)?;
                    if let Some(value) = child.const_value {
                        names.push((value & mask(size), child.name));
                    }
                }
                inline(Shape::Variant { names, other: None })
            }
            gimli::DW_TAG_structure_type => self.structure(node, size),
            _ => Ok(None),
        }
    }

    fn structure(&self, node: &Node, size: u64) -> Result<Option<(Place, Shape)>, Malformed> {
        if node.name == "Uuid" && size == 16 {
            return Ok(Some((Place::Inline { offset: self.at(0)?, len: 16 }, Shape::Uuid)));
        }
        if let Some(variants) = self.units.variants(node)? {
            return if node.name.starts_with("Option<") {
                Ok(None)
            } else {
                self.enumeration(&variants)
            };
        }
        let members = self.units.members(node)?;
        let named = |name: &str| members.iter().find(|member| member.name == name);
        if (node.name.ends_with("str") || node.name.starts_with("Box<str"))
            && let (Some(data), Some(len)) = (named("data_ptr"), named("length"))
        {
            let offset = self.at(data.location.unwrap_or(0))?;
            let len_offset = self.at(len.location.unwrap_or(0))?;
            return Ok(Some((Place::Slice { offset, len_offset }, Shape::Text)));
        }
        if node.name == "String"
            && let Some(vec) = named("vec")
            && let Some(r#type) = vec.r#type
        {
            let start = vec.location.unwrap_or(0);
            let vec = self.node(r#type)?;
            let (Some(data), Some(len)) = (self.pointer(&vec, 0)?, self.len(&vec)?) else {
                return Ok(None);
            };
            let offset = self.at(start.saturating_add(data))?;
            let len_offset = self.at(start.saturating_add(len))?;
            return Ok(Some((Place::Slice { offset, len_offset }, Shape::Text)));
        }
        if node.name.starts_with("Vec<")
            && let Some(len) = self.len(node)?
        {
            return Ok(Some((Place::Inline { offset: self.at(len)?, len: 8 }, Shape::Unsigned)));
        }
        Ok(None)
    }

    fn len(&self, vec: &Node) -> Result<Option<u64>, Malformed> {
        let members = self.units.members(vec)?;
        let len = members.into_iter().find(|member| member.name == "len");
        Ok(len.map(|len| len.location.unwrap_or(0)))
    }

    /// Offset of the first pointer in a type.
    fn pointer(&self, node: &Node, depth: usize) -> Result<Option<u64>, Malformed> {
        if node.tag == gimli::DW_TAG_pointer_type {
            return Ok(Some(0));
        }
        if depth == MAX_POINTER_DEPTH || node.tag != gimli::DW_TAG_structure_type {
            return Ok(None);
        }
        for member in self.units.members(node)? {
            let Some(r#type) = member.r#type else { continue };
            if let Some(offset) = self.pointer(&self.node(r#type)?, depth + 1)? {
                return Ok(Some(offset.saturating_add(member.location.unwrap_or(0))));
            }
        }
        Ok(None)
    }

    /// The name of the variant, whatever it holds.
    fn enumeration(&self, variants: &Variants) -> Result<Option<(Place, Shape)>, Malformed> {
        let Some((offset, width)) = variants.discriminant else { return Ok(None) };
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Ok(None);
        }
        let (mut names, mut other) = (Vec::new(), None);
        for variant in &variants.all {
            match variant.value {
                Some(value) => names.push((value & mask(width), variant.member.name.clone())),
                None => other = Some(variant.member.name.clone()),
            }
        }
        let place = Place::Inline { offset: self.at(offset)?, len: width as u16 };
        Ok(Some((place, Shape::Variant { names, other })))
    }
}

fn mask(bytes: u64) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 }
}
