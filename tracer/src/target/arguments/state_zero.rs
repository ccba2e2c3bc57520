//! What a coroutine's code does before its first suspension: which words of itself it reads that
//! it has not written, which are its captured arguments, and where it moves them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::super::decode::{
    CALLER_SAVED, RDI, RSI, RSP, direct_target, gpr, stack_slot, stack_store,
};
use super::super::dispatch::Walk;
use super::super::scan::Scan;
use super::super::sites::{Writes, bit};
use super::super::{Image, SelfRegister, StateByte};
use super::formatted::Pairs;

/// Instructions looked at in all.
const MAX_STEPS: usize = 3000;
/// Ways followed at once.
const MAX_WAYS: usize = 32;
/// What a callee that is given the address of a field may write.
const ESCAPED: i64 = 64;
/// A captured argument lies below.
const MAX_SLOT: i64 = 1 << 16;

/// A value that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// The coroutine's address plus an offset.
    Own(i64),
    /// What the captured word at `slot` held, plus an offset.
    Captured {
        /// The word.
        slot: u32,
        /// What was added.
        offset: i64,
    },
    /// The address of a function.
    Function(u64),
    /// A small number, to be added to an address.
    Number(i64),
}

/// What is found.
#[derive(Debug, Default)]
pub(super) struct StateZero {
    /// Captured words.
    pub captured: BTreeSet<u32>,
    /// Where captured words are moved within the coroutine: to, from.
    pub moved: BTreeMap<u32, u32>,
    /// Addresses that are handed to the formatting machinery, with the function that formats.
    pub formatted: Vec<(Value, u64)>,
}

/// One way through the code.
#[derive(Clone)]
struct Way {
    at: usize,
    registers: [Option<Value>; 16],
    vectors: [Option<u32>; 16],
    stack: HashMap<i64, Value>,
    /// Words of the coroutine that hold a captured word.
    own: HashMap<i64, Value>,
    /// Bytes of the coroutine that have been written: from, to.
    written: Vec<(i64, i64)>,
    pairs: Pairs,
}

/// Follows `code`, a poll function, from its entry in state 0.
pub(super) fn explore(
    image: &Image,
    scan: &Scan,
    code: &[Instruction],
    state: StateByte,
) -> StateZero {
    let mut found = StateZero::default();
    let place = (state.self_register, state.offset, state.width);
    let prologue = Walk::new(image, scan, code, place, 0).run_to_decision();
    let mut writes = Writes::new();
    let mut way = Way::new(state.self_register);
    // Up to the first branch that does not hang on the state there is only one way.
    for &index in &prologue {
        way.step(image, &code[index], &mut writes, &mut found);
    }
    let Some(&last) = prologue.last() else { return found };
    way.at = last + 1;
    let mut waiting = successors(code, last, &way);
    let mut seen: HashSet<usize> = prologue.into_iter().collect();
    let mut left = MAX_STEPS;
    while let Some(mut way) = waiting.pop() {
        while left > 0 && way.at < code.len() && seen.insert(way.at) {
            left -= 1;
            let instruction = &code[way.at];
            if suspends(instruction, &way, state) {
                break;
            }
            way.step(image, instruction, &mut writes, &mut found);
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => way.at += 1,
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    let more = successors(code, way.at, &way);
                    if waiting.len() + more.len() <= MAX_WAYS {
                        waiting.extend(more);
                    }
                    break;
                }
                _ => break,
            }
        }
    }
    found
}

/// Where control may go from the branch at `index`.
fn successors(code: &[Instruction], index: usize, way: &Way) -> Vec<Way> {
    let branch = &code[index];
    let target = || {
        let addr = direct_target(branch)?;
        code.binary_search_by_key(&addr, Instruction::ip).ok()
    };
    let next = (branch.flow_control() != FlowControl::UnconditionalBranch).then_some(index + 1);
    let conditional = matches!(
        branch.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    let target = if conditional { target() } else { None };
    next.into_iter().chain(target).map(|at| Way { at, ..way.clone() }).collect()
}

/// Whether the instruction stores the state of a coroutine that waits or has ended.
fn suspends(instruction: &Instruction, way: &Way, state: StateByte) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && matches!(instruction.op1_kind(), OpKind::Immediate8 | OpKind::Immediate16)
        && way.own_place(instruction) == Some(i64::from(state.offset))
}

impl Way {
    fn new(own: SelfRegister) -> Self {
        let mut registers = [None; 16];
        registers[match own {
            SelfRegister::Rdi => RDI,
            SelfRegister::Rsi => RSI,
        }] = Some(Value::Own(0));
        Self {
            at: 0,
            registers,
            vectors: [None; 16],
            stack: HashMap::new(),
            own: HashMap::new(),
            written: Vec::new(),
            pairs: Pairs::default(),
        }
    }

    fn value(&self, register: Register) -> Option<Value> {
        gpr(register).filter(|_| register.is_gpr64()).and_then(|number| self.registers[number])
    }

    /// Where in the coroutine a memory operand lies.
    fn own_place(&self, instruction: &Instruction) -> Option<i64> {
        let Some(Value::Own(at)) = self.value(instruction.memory_base()) else { return None };
        (instruction.memory_index() == Register::None)
            .then(|| at.wrapping_add(instruction.memory_displacement64() as i64))
    }

    /// What the word of the coroutine at `at` holds: captured, unless it has been written.
    fn load(&self, at: i64, found: &mut StateZero) -> Option<Value> {
        if let Some(value) = self.own.get(&at) {
            return Some(*value);
        }
        let written = self.written.iter().any(|(from, to)| *from < at + 8 && at < *to);
        if written || !(0..MAX_SLOT).contains(&at) || at % 8 != 0 {
            return None;
        }
        found.captured.insert(at as u32);
        Some(Value::Captured { slot: at as u32, offset: 0 })
    }

    fn store(&mut self, at: i64, len: i64, value: Option<Value>, found: &mut StateZero) {
        self.own.retain(|other, _| *other + 8 <= at || *other >= at + len);
        self.written.push((at, at + len));
        if let Some(value) = value {
            self.own.insert(at, value);
            if let Value::Captured { slot, offset: 0 } = value
                && (0..MAX_SLOT).contains(&at)
            {
                found.moved.insert(at as u32, slot);
            }
        }
    }

    fn step(
        &mut self,
        image: &Image,
        instruction: &Instruction,
        writes: &mut Writes,
        found: &mut StateZero,
    ) {
        let written = writes.of(instruction);
        let result = self.result(image, instruction, found);
        self.vectors(instruction, found);
        if let Some((slot, len)) = stack_store(instruction) {
            let value = match instruction.code() {
                Code::Mov_rm64_r64 => self.value(instruction.op1_register()),
                _ => None,
            };
            self.stack.retain(|other, _| *other + 8 <= slot || *other >= slot + len);
            if let Some(value) = value {
                self.stack.insert(slot, value);
            }
            found.formatted.extend(self.pairs.store(slot, len, value));
        } else if writes_memory(instruction)
            && let Some(at) = self.own_place(instruction)
        {
            let value = match instruction.code() {
                Code::Mov_rm64_r64 => self.value(instruction.op1_register()),
                _ => None,
            };
            if !is_vector_store(instruction) {
                self.store(at, instruction.memory_size().size() as i64, value, found);
            }
        }
        // A call leaves the stack pointer as it was.
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            self.call();
        } else if written & bit(RSP) != 0 {
            self.stack.clear();
            self.pairs.clear();
        }
        let target = (instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register)
            .then(|| gpr(instruction.op0_register()))
            .flatten();
        for number in 0..16 {
            if written & bit(number) != 0 {
                self.registers[number] = if target == Some(number) { result } else { None };
            }
        }
    }

    /// The callee may change registers, and what it is given the address of.
    fn call(&mut self) {
        for number in [RDI, RSI, 1, 2, 8, 9] {
            if let Some(Value::Own(at)) = self.registers[number]
                && at > 0
            {
                self.own.retain(|other, _| *other + 8 <= at || *other >= at + ESCAPED);
                self.written.push((at, at + ESCAPED));
            }
        }
        for number in CALLER_SAVED {
            self.registers[number] = None;
        }
        self.vectors = [None; 16];
    }

    /// The value of an instruction's first operand afterwards.
    fn result(
        &self,
        image: &Image,
        instruction: &Instruction,
        found: &mut StateZero,
    ) -> Option<Value> {
        if let Some(function) = function_taken(image, instruction) {
            return Some(Value::Function(function));
        }
        match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                if instruction.op0_kind() == OpKind::Register =>
            {
                if instruction.op1_kind() == OpKind::Register {
                    return self.value(instruction.op1_register());
                }
                if let Some(slot) = stack_slot(instruction) {
                    return self.stack.get(&slot).copied();
                }
                self.load(self.own_place(instruction)?, found)
            }
            Code::Lea_r64_m if instruction.memory_index() == Register::None => {
                let by = instruction.memory_displacement64() as i64;
                self.value(instruction.memory_base())?.moved(by)
            }
            Code::Add_r64_rm64 | Code::Add_rm64_r64
                if instruction.op0_kind() == OpKind::Register =>
            {
                let value = self.value(instruction.op0_register())?;
                let other = match instruction.op1_kind() {
                    OpKind::Register => self.value(instruction.op1_register())?,
                    _ => self.load(self.own_place(instruction)?, found)?,
                };
                value.plus(other)
            }
            _ => match number_loaded(instruction) {
                None => self.value(instruction.op0_register())?.moved(added(instruction)?),
                number => number,
            },
        }
    }

    /// Follows words that are moved two at a time.
    fn vectors(&mut self, instruction: &Instruction, found: &mut StateZero) {
        let is_move = matches!(
            instruction.mnemonic(),
            Mnemonic::Movups | Mnemonic::Movaps | Mnemonic::Movdqu | Mnemonic::Movdqa
        );
        let number = |register: Register| register.is_xmm().then(|| register.number() & 15);
        if is_move && is_vector_store(instruction) {
            let Some(at) = self.own_place(instruction) else { return };
            let from = number(instruction.op1_register()).and_then(|n| self.vectors[n]);
            let word = |by| from.map(|slot| Value::Captured { slot: slot + by, offset: 0 });
            self.store(at, 8, word(0), found);
            self.store(at + 8, 8, word(8), found);
            return;
        }
        if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
            return;
        }
        let Some(target) = number(instruction.op0_register()) else { return };
        self.vectors[target] = None;
        if is_move
            && instruction.op1_kind() == OpKind::Memory
            && let Some(at) = self.own_place(instruction)
            && let (
                Some(Value::Captured { slot, offset: 0 }),
                Some(Value::Captured { slot: second, offset: 0 }),
            ) = (self.load(at, found), self.load(at + 8, found))
            && second == slot + 8
        {
            self.vectors[target] = Some(slot);
        }
    }
}

impl Value {
    /// The same, `by` bytes further on.
    pub(super) fn moved(self, by: i64) -> Option<Self> {
        match self {
            Self::Own(at) => Some(Self::Own(at.wrapping_add(by))),
            Self::Captured { slot, offset } => {
                Some(Self::Captured { slot, offset: offset.wrapping_add(by) })
            }
            Self::Number(number) => Some(Self::Number(number.wrapping_add(by))),
            Self::Function(_) => None,
        }
    }

    /// The sum of two values, where that is an address that matters.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        match (self, other) {
            (value, Self::Number(by)) | (Self::Number(by), value) => value.moved(by),
            _ => None,
        }
    }
}

/// The number that an instruction puts into a register.
pub(super) fn number_loaded(instruction: &Instruction) -> Option<Value> {
    match instruction.code() {
        Code::Mov_r32_imm32 => Some(Value::Number(i64::from(instruction.immediate32()))),
        Code::Mov_rm64_imm32 if instruction.op0_kind() == OpKind::Register => {
            Some(Value::Number(instruction.immediate32to64()))
        }
        _ => None,
    }
}

/// The number that an instruction adds to its first operand, a register.
pub(super) fn added(instruction: &Instruction) -> Option<i64> {
    if instruction.op_count() != 2 || !instruction.op0_register().is_gpr64() {
        return None;
    }
    let number = match instruction.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => instruction.immediate(1) as i64,
        _ => return None,
    };
    match instruction.mnemonic() {
        Mnemonic::Add => Some(number),
        Mnemonic::Sub => number.checked_neg(),
        _ => None,
    }
}

/// The function whose address an instruction puts into a register, directly or from the GOT.
pub(super) fn function_taken(image: &Image, instruction: &Instruction) -> Option<u64> {
    if !instruction.is_ip_rel_memory_operand() {
        return None;
    }
    let addr = instruction.ip_rel_memory_address();
    let function = match instruction.code() {
        Code::Lea_r64_m => addr,
        Code::Mov_r64_rm64 => image.pointer_at(addr)?,
        _ => return None,
    };
    image.symbols().at(function).next().map(|_| function)
}

fn writes_memory(instruction: &Instruction) -> bool {
    instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Memory
        && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt)
}

fn is_vector_store(instruction: &Instruction) -> bool {
    instruction.op_count() == 2
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
        && instruction.op1_register().is_xmm()
        && instruction.memory_size().size() == 16
}
