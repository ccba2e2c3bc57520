//! Poll functions: told from plain closures, and where their coroutine keeps its state.

use std::collections::{BTreeSet, HashMap};

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::decode::{CALLER_SAVED, RDI, RSI, RSP, direct_target, gpr, stack_slot, stack_store};
use super::dispatch::Walk;
use super::location::location_at;
use super::scan::Scan;
use super::sites::{Writes, bit, body};
use super::{Image, SelfRegister, SourceLocation, StateByte};

/// How far into a function its state is looked for: stack probes and spills come first.
const MAX_PROLOGUE: usize = 300;
/// How many copies of copies are followed.
const MAX_ROUNDS: usize = 5;
/// A state beyond this offset is none: no coroutine is that large.
const MAX_OFFSET: i64 = 1 << 24;

/// What the code of one poll function says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Poll {
    pub(super) state: StateByte,
    pub(super) size_at_least: u32,
    pub(super) location: Option<SourceLocation>,
}

/// Why the code is not that of a poll function, or not certainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotPoll {
    /// Nothing like a state is read at its beginning.
    NoState,
    /// A byte at this offset is read first, and never written as a state is.
    Unconfirmed(u32),
}

/// Reads the code of the function that begins at `start`, which calls a
/// resumed-after-completion panic.
pub(super) fn poll(image: &Image, scan: &Scan, start: u64) -> Result<Poll, NotPoll> {
    let code = body(image, start);
    let candidates = candidates(&code);
    let finished = |state: &StateByte, value| {
        let place = (state.self_register, state.offset, state.width);
        Walk::new(image, scan, &code, place, value).run_to_panic()
    };
    // The dispatch on 1 (returned) ends in the panic: there is no better witness.
    let dispatched = candidates.iter().find_map(|state| {
        let panicked = finished(state, 1)?;
        Some((*state, panicked.location))
    });
    let (state, location) = match dispatched {
        Some(found) => found,
        None => {
            let first = *candidates.first().ok_or(NotPoll::NoState)?;
            if !is_stored(&code, &first) {
                return Err(NotPoll::Unconfirmed(first.offset));
            }
            (first, finished(&first, 2).and_then(|panicked| panicked.location))
        }
    };
    let size_at_least =
        touched(&code, state.self_register).max(state.offset + u32::from(state.width));
    let location = location.and_then(|addr| location_at(image, addr));
    Ok(Poll { state, size_at_least, location })
}

/// The offset of the first byte that drop glue looks at: the state, if it drops a coroutine.
pub(super) fn first_byte_read(image: &Image, start: u64) -> Option<u32> {
    let first = *candidates(&body(image, start)).first()?;
    (first.self_register == SelfRegister::Rdi).then_some(first.offset)
}

/// What could be the state: bytes (or words) of the first two arguments that are looked at in
/// the straight line from the entry, in order.
fn candidates(code: &[Instruction]) -> Vec<StateByte> {
    let mut found: Vec<StateByte> = Vec::new();
    let mut writes = Writes::new();
    let mut registers: [Option<(SelfRegister, i64)>; 16] = [None; 16];
    registers[RDI] = Some((SelfRegister::Rdi, 0));
    registers[RSI] = Some((SelfRegister::Rsi, 0));
    let mut stack = HashMap::new();
    for instruction in code.iter().take(MAX_PROLOGUE) {
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            FlowControl::Call | FlowControl::IndirectCall => {
                for number in CALLER_SAVED {
                    registers[number] = None;
                }
                continue;
            }
            _ => break,
        }
        let base = |register| gpr(register).and_then(|number| registers[number]);
        let width = instruction.memory_size().size();
        if looks_at_state(instruction)
            && instruction.memory_index() == Register::None
            && let Some((self_register, at)) = base(instruction.memory_base())
            && let offset = at.wrapping_add(instruction.memory_displacement64() as i64)
            && (0..MAX_OFFSET).contains(&offset)
        {
            let state = StateByte { offset: offset as u32, width: width as u8, self_register };
            if !found.contains(&state) {
                found.push(state);
            }
        }
        let copied = copied(instruction, base, |slot| stack.get(&slot).copied());
        if let Some((slot, _)) = stack_store(instruction) {
            match base(instruction.op1_register()) {
                Some(value) if instruction.op1_kind() == OpKind::Register => {
                    stack.insert(slot, value);
                }
                _ => drop(stack.remove(&slot)),
            }
        }
        let written = writes.of(instruction);
        if written & bit(RSP) != 0 {
            stack.clear();
        }
        for (number, register) in registers.iter_mut().enumerate() {
            if written & bit(number) != 0 {
                *register = copied;
            }
        }
    }
    found
}

/// Whether the instruction reads a byte or word the way a dispatch does.
fn looks_at_state(instruction: &Instruction) -> bool {
    let width = instruction.memory_size().size();
    match instruction.mnemonic() {
        Mnemonic::Movzx => instruction.op1_kind() == OpKind::Memory && width <= 2,
        Mnemonic::Mov => instruction.op1_kind() == OpKind::Memory && width == 1,
        Mnemonic::Cmp | Mnemonic::Test => instruction.op0_kind() == OpKind::Memory && width <= 2,
        _ => false,
    }
}

/// The value that an instruction copies into its target: `mov`, `lea` or a reload.
fn copied<V: Copy>(
    instruction: &Instruction,
    base: impl Fn(Register) -> Option<(V, i64)>,
    reload: impl Fn(i64) -> Option<(V, i64)>,
) -> Option<(V, i64)> {
    match instruction.code() {
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if instruction.op0_kind() == OpKind::Register => {
            match instruction.op1_kind() {
                OpKind::Register => base(instruction.op1_register()),
                _ => reload(stack_slot(instruction)?),
            }
        }
        Code::Lea_r64_m if instruction.memory_index() == Register::None => {
            let (value, at) = base(instruction.memory_base())?;
            Some((value, at.wrapping_add(instruction.memory_displacement64() as i64)))
        }
        _ => None,
    }
}

/// Whether a state is stored where `state` says: 1, 2 or 3 at the same offset from a register,
/// or through a pointer computed before.
fn is_stored(code: &[Instruction], state: &StateByte) -> bool {
    let offset = i64::from(state.offset);
    // Registers that hold the state's own address.
    let mut pointers = 0u16;
    let mut writes = Writes::new();
    code.iter().any(|instruction| {
        let is_store = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Memory
            && matches!(instruction.op1_kind(), OpKind::Immediate8 | OpKind::Immediate16)
            && instruction.memory_size().size() == usize::from(state.width)
            && instruction.memory_index() == Register::None
            && matches!(instruction.immediate(1), 1..=3);
        let at = instruction.memory_displacement64() as i64;
        let base = gpr(instruction.memory_base());
        if is_store && let Some(base) = base {
            let direct = base != RSP && at == offset;
            if direct || at == 0 && pointers & bit(base) != 0 {
                return true;
            }
        }
        pointers &= !writes.of(instruction);
        if instruction.code() == Code::Lea_r64_m
            && base.is_some_and(|base| base != RSP)
            && instruction.memory_index() == Register::None
            && at == offset
            && let Some(number) = gpr(instruction.op0_register())
        {
            pointers |= bit(number);
        }
        false
    })
}

/// Bytes from the coroutine's address that the code certainly touches. A register or stack slot
/// counts as the coroutine's address only if it is never anything else in the whole function, or
/// between such a load and the next place where control can come from elsewhere.
fn touched(code: &[Instruction], self_register: SelfRegister) -> u32 {
    Facts::find(code, own_register(self_register)).1
}

/// Number of the register that the coroutine is passed in.
fn own_register(self_register: SelfRegister) -> usize {
    match self_register {
        SelfRegister::Rdi => RDI,
        SelfRegister::Rsi => RSI,
    }
}

/// Registers and stack slots that hold the coroutine's address plus an offset wherever they are
/// used in the function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    registers: [Option<i64>; 16],
    stack: HashMap<i64, i64>,
    own: usize,
}

impl Facts {
    /// What holds everywhere in `code`, a poll function.
    pub(super) fn of(code: &[Instruction], self_register: SelfRegister) -> Self {
        Self::find(code, own_register(self_register)).0
    }

    /// Offset from the coroutine's address that each register always holds.
    pub(super) fn registers(&self) -> [Option<i64>; 16] {
        self.registers
    }

    /// The register in which the coroutine is passed.
    pub(super) fn own_register(&self) -> usize {
        self.own
    }

    /// Offset from the coroutine's address that a slot of the stack frame always holds.
    pub(super) fn stack_slot(&self, slot: i64) -> Option<i64> {
        self.stack.get(&slot).copied()
    }

    /// What holds everywhere, and the end of the coroutine's bytes that are touched.
    fn find(code: &[Instruction], own: usize) -> (Self, u32) {
        let mut targets: Vec<_> = code.iter().filter_map(direct_target).collect();
        targets.sort_unstable();
        let mut writes = Writes::new();
        let written: Vec<_> = code.iter().map(|instruction| writes.of(instruction)).collect();
        let mut facts = Self { own, ..Self::default() };
        // Facts that hold everywhere rest on each other: start from the entry, add what is always
        // a copy, and repeat until nothing is added. Each round is right by itself.
        let mut end = 0;
        for _ in 0..MAX_ROUNDS {
            let (found, touched) = facts.pass(code, &written, &targets);
            end = touched;
            if found == facts {
                break;
            }
            facts = found;
        }
        (facts, end)
    }

    /// One pass: what always holds, given what is known to; and the end of the last byte touched.
    fn pass(&self, code: &[Instruction], written: &[u16], targets: &[u64]) -> (Self, u32) {
        let own = self.own;
        // `None`: not written yet; `Some(None)`: written with something else.
        let mut registers: [Option<Option<i64>>; 16] = [None; 16];
        let mut stack: HashMap<i64, Option<Option<i64>>> = HashMap::new();
        let mut stores = BTreeSet::new();
        let mut local = self.registers;
        local[own] = Some(0);
        let mut end = 0;
        // Escaped stack slots may be written by anybody.
        let mut escaped = Vec::new();
        for (instruction, written) in code.iter().zip(written) {
            if targets.binary_search(&instruction.ip()).is_ok() {
                local = self.registers;
            }
            let base = |register| gpr(register).and_then(|number| Some(((), local[number]?)));
            if let Some(touched) = touched_end(instruction, base) {
                end = end.max(touched);
            }
            let reload = |slot| self.stack.get(&slot).map(|at| ((), *at));
            let copied = copied(instruction, base, reload).map(|(_, at)| at);
            if let Some((slot, len)) = stack_store(instruction) {
                stores.insert((slot, len));
                let value = match instruction.code() {
                    Code::Mov_rm64_r64 => base(instruction.op1_register()).map(|(_, at)| at),
                    _ => None,
                };
                merge(stack.entry(slot).or_default(), value);
            }
            if instruction.mnemonic() == Mnemonic::Lea
                && let Some(slot) = stack_slot(instruction)
            {
                escaped.push(slot);
            }
            for number in 0..16 {
                if written & bit(number) == 0 {
                    continue;
                }
                // The caller's value comes back just before the return.
                if instruction.mnemonic() != Mnemonic::Pop {
                    merge(&mut registers[number], copied);
                }
                local[number] = copied;
            }
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::ConditionalBranch => {}
                _ => local = self.registers,
            }
        }
        let mut facts = Self { own, ..Self::default() };
        for (number, value) in registers.iter().enumerate() {
            // A call may change the others without a word.
            if number != RSP && !CALLER_SAVED.contains(&number) {
                facts.registers[number] = value.flatten();
            }
        }
        let first_escaped = escaped.iter().min().copied().unwrap_or(i64::MAX);
        for (slot, value) in stack {
            // Whoever has the address of a slot may write that and what lies above it.
            let overlaps = |(other, len): &(i64, i64)| {
                *other != slot && *other < slot + 8 && slot < *other + *len
            };
            if let Some(value) = value.flatten()
                && slot < first_escaped
                && !stores.iter().any(overlaps)
            {
                facts.stack.insert(slot, value);
            }
        }
        (facts, end)
    }
}

/// Adds one more value that something is written with.
fn merge(known: &mut Option<Option<i64>>, value: Option<i64>) {
    *known = match *known {
        None => Some(value),
        Some(known) if known == value => Some(known),
        Some(_) => Some(None),
    };
}

/// End of the coroutine's bytes that a memory operand touches.
fn touched_end(
    instruction: &Instruction,
    base: impl Fn(Register) -> Option<((), i64)>,
) -> Option<u32> {
    let is_access = instruction.mnemonic() != Mnemonic::Lea
        && instruction.mnemonic() != Mnemonic::Nop
        && instruction.memory_index() == Register::None;
    let (_, at) = base(instruction.memory_base()).filter(|_| is_access)?;
    let size = i64::try_from(instruction.memory_size().size()).ok()?;
    let begin = at.checked_add(instruction.memory_displacement64() as i64)?;
    let end = begin.checked_add(size)?;
    (begin >= 0 && end <= MAX_OFFSET).then_some(end as u32)
}
