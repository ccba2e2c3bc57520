//! What a probe carries: the attach cookie of its link entry tells a generic program which
//! function was hit and how.

use crate::hook::Hook;

/// A probe's cookie. Low 16 bits: function id; bits 16–23: flags; bits 24–31: a register or
/// another small number that the program needs; bits 32–39: the [`Hook`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Cookie(pub u64);

impl Cookie {
    /// The probe sits on a `ret` (or a tail `jmp`) of the function itself, so the stack pointer
    /// equals the one at entry; without it the probe sits behind a call site and is 8 above.
    pub const AT_RET: u8 = 1 << 0;

    /// At an exit: the integer result is in its register.
    pub const RESULT: u8 = 1 << 1;

    /// A cookie for function `fn_id`.
    pub const fn new(fn_id: u16, flags: u8) -> Self {
        Self(fn_id as u64 | (flags as u64) << 16)
    }

    /// The same with a small argument.
    pub const fn with_arg(self, arg: u8) -> Self {
        Self(self.0 & !(0xff << 24) | (arg as u64) << 24)
    }

    /// The same for a hook.
    pub const fn with_hook(self, hook: Hook) -> Self {
        Self(self.0 & !(0xff << 32) | (hook as u64) << 32)
    }

    /// The hook's number.
    pub const fn hook(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Index into the function table.
    pub const fn fn_id(self) -> u16 {
        self.0 as u16
    }

    /// Flags such as [`Self::AT_RET`].
    pub const fn flags(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The small argument; 0 when none was given.
    pub const fn arg(self) -> u8 {
        (self.0 >> 24) as u8
    }
}
