//! Follows a poll function from its entry as if the coroutine were in a given state, through the
//! dispatch on the state and no further: the states of a finished coroutine lead to the
//! resumed-after-completion panic, whose `Location` is that of the body.

use std::collections::HashMap;

use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::decode::{
    CALLER_SAVED, RDI, RDX, RSI, RSP, direct_target, gpr, stack_slot, stack_store,
};
use super::scan::Scan;
use super::sites::{Writes, bit};
use super::{Image, SelfRegister};

/// Instructions to follow at most: prologue, dispatch and the panic's block.
const MAX_STEPS: usize = 400;

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Known(u64),
    /// The coroutine's address plus an offset.
    Coroutine(i64),
    Unknown,
}

/// The operands of the comparison that the flags come from, as the machine sees them: widened
/// with their sign, so that equality and both orders can be told.
#[derive(Clone, Copy)]
struct Flags {
    left: u64,
    right: u64,
    /// Width in bits.
    bits: u32,
}

/// One walk through a function.
pub(super) struct Walk<'a> {
    image: &'a Image,
    scan: &'a Scan,
    code: &'a [Instruction],
    /// Offset and width in bytes of the state, and its pretended value.
    offset: i64,
    width: u8,
    state: u64,
    registers: [Value; 16],
    /// Whole words in the stack frame, by their offset from the stack pointer: unoptimized code
    /// keeps everything there.
    stack: HashMap<i64, Value>,
    flags: Option<Flags>,
    writes: Writes,
    /// Words at known addresses are read-only tables, too.
    tables: bool,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked {
    /// Address of the `Location` passed to the panic, where it is plain.
    pub(super) location: Option<u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        image: &'a Image,
        scan: &'a Scan,
        code: &'a [Instruction],
        (self_register, offset, width): (SelfRegister, u32, u8),
        state: u64,
    ) -> Self {
        let mut registers = [Value::Unknown; 16];
        registers[match self_register {
            SelfRegister::Rdi => RDI,
            SelfRegister::Rsi => RSI,
        }] = Value::Coroutine(0);
        Self {
            image,
            scan,
            code,
            offset: i64::from(offset),
            width,
            state,
            registers,
            stack: HashMap::new(),
            flags: None,
            writes: Writes::new(),
            tables: false,
        }
    }

    /// Follows the code until the panic; `None` if the way to it depends on anything but the
    /// state.
    pub(super) fn run_to_panic(mut self) -> Option<Panicked> {
        let mut at = 0;
        for _ in 0..MAX_STEPS {
            let instruction = self.code.get(at)?;
            if self.scan.is_resumed_panic(instruction) {
                let location = match self.registers[RDI] {
                    Value::Known(addr) => Some(addr),
                    _ => None,
                };
                return Some(Panicked { location });
            }
            at = self.follow(at, instruction)?;
        }
        None
    }

    /// The instructions from the entry up to the first branch that depends on anything but the
    /// state, in the order in which they run; that branch is the last.
    pub(super) fn run_to_decision(mut self) -> Vec<usize> {
        let (mut way, mut at) = (Vec::new(), 0);
        for _ in 0..MAX_STEPS {
            let Some(instruction) = self.code.get(at) else { break };
            way.push(at);
            let Some(next) = self.follow(at, instruction) else { break };
            at = next;
        }
        way
    }

    /// Follows the code to its first call, or to the jump that takes it elsewhere. Returns the
    /// function and its second and third argument, if all are known.
    pub(super) fn run_to_tail_call(mut self) -> Option<(u64, u64, u64)> {
        self.tables = true;
        let mut at = 0;
        for _ in 0..MAX_STEPS {
            let instruction = self.code.get(at)?;
            let callee = match instruction.flow_control() {
                FlowControl::Call | FlowControl::UnconditionalBranch => direct_target(instruction),
                FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                    self.indirect_target(instruction)
                }
                _ => None,
            };
            let is_inside = |addr| self.code.binary_search_by_key(&addr, Instruction::ip).is_ok();
            if let Some(callee) = callee.filter(|addr| !is_inside(*addr)) {
                return match (self.registers[RSI], self.registers[RDX]) {
                    (Value::Known(second), Value::Known(third)) => Some((callee, second, third)),
                    _ => None,
                };
            }
            at = self.follow(at, instruction)?;
        }
        None
    }

    /// Carries out one instruction; returns which one is next, if that is known.
    fn follow(&mut self, at: usize, instruction: &Instruction) -> Option<usize> {
        let target = match instruction.flow_control() {
            FlowControl::Next => {
                self.step(instruction);
                None
            }
            FlowControl::ConditionalBranch => {
                let condition = instruction.condition_code();
                if self.flags?.holds(condition)? { Some(direct_target(instruction)?) } else { None }
            }
            FlowControl::UnconditionalBranch => Some(direct_target(instruction)?),
            FlowControl::IndirectBranch => Some(self.indirect_target(instruction)?),
            FlowControl::Call | FlowControl::IndirectCall => {
                for number in CALLER_SAVED {
                    self.registers[number] = Value::Unknown;
                }
                self.flags = None;
                None
            }
            _ => return None,
        };
        match target {
            None => Some(at + 1),
            Some(addr) => self.code.binary_search_by_key(&addr, Instruction::ip).ok(),
        }
    }

    fn indirect_target(&self, jump: &Instruction) -> Option<u64> {
        if jump.op0_kind() == OpKind::Memory {
            return self.image.pointer_at(self.address(jump)?);
        }
        self.known(jump.op0_register())
    }

    fn value(&self, register: Register) -> Value {
        gpr(register).map_or(Value::Unknown, |number| self.registers[number])
    }

    fn known(&self, register: Register) -> Option<u64> {
        match self.value(register) {
            Value::Known(value) => Some(value & mask(register.size() as u32 * 8)),
            _ => None,
        }
    }

    /// The address of a memory operand, if known.
    fn address(&self, instruction: &Instruction) -> Option<u64> {
        if instruction.is_ip_rel_memory_operand() {
            return Some(instruction.ip_rel_memory_address());
        }
        let part = |register| match register {
            Register::None => Some(0),
            register => self.known(register),
        };
        let index = part(instruction.memory_index())?;
        let scaled = index.wrapping_mul(u64::from(instruction.memory_index_scale()));
        let base = part(instruction.memory_base())?;
        Some(base.wrapping_add(scaled).wrapping_add(instruction.memory_displacement64()))
    }

    /// Whether the memory operand is the state.
    fn is_state(&self, instruction: &Instruction) -> bool {
        instruction.memory_index() == Register::None
            && instruction.memory_size().size() == usize::from(self.width)
            && self.value(instruction.memory_base())
                == Value::Coroutine(
                    self.offset.wrapping_sub(instruction.memory_displacement64() as i64),
                )
    }

    /// The value that an operand is read as.
    fn operand(&self, instruction: &Instruction, operand: u32) -> Value {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                match self.value(register) {
                    Value::Known(_) => self.known(register).map_or(Value::Unknown, Value::Known),
                    value if register.size() == 8 => value,
                    _ => Value::Unknown,
                }
            }
            OpKind::Memory if self.is_state(instruction) => Value::Known(self.state),
            OpKind::Memory if let Some(slot) = stack_slot(instruction) => {
                let bytes = instruction.memory_size().size() as u32;
                match self.stack.get(&slot) {
                    Some(Value::Known(value)) => Value::Known(value & mask(bytes * 8)),
                    Some(value) if bytes == 8 => *value,
                    _ => Value::Unknown,
                }
            }
            OpKind::Memory => match (self.address(instruction), instruction.memory_size().size()) {
                // Jump tables: read-only, offsets and so not relocated.
                (Some(addr), 4) => self
                    .image
                    .u32_at(addr)
                    .map_or(Value::Unknown, |word| Value::Known(u64::from(word))),
                (Some(addr), 8) if self.tables => {
                    self.image.pointer_at(addr).map_or(Value::Unknown, Value::Known)
                }
                (Some(addr), 1) if self.tables => self
                    .image
                    .bytes(addr, 1)
                    .map_or(Value::Unknown, |byte| Value::Known(u64::from(byte[0]))),
                _ => Value::Unknown,
            },
            kind if is_immediate(kind) => Value::Known(instruction.immediate(operand)),
            _ => Value::Unknown,
        }
    }

    fn step(&mut self, instruction: &Instruction) {
        let written = self.writes.of(instruction);
        let (left, right) = match instruction.op_count() {
            2.. => (self.operand(instruction, 0), self.operand(instruction, 1)),
            1 => (self.operand(instruction, 0), Value::Unknown),
            _ => (Value::Unknown, Value::Unknown),
        };
        let bits = match instruction.op_count() {
            0 => 0,
            _ => operand_bits(instruction),
        };
        let same = instruction.op_count() == 2
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register
            && instruction.op0_register() == instruction.op1_register();
        let mut result = match (instruction.mnemonic(), left, right) {
            (Mnemonic::Mov | Mnemonic::Movzx, _, right) => right,
            (Mnemonic::Movsxd, _, Value::Known(value)) => {
                Value::Known(i64::from(value as u32 as i32) as u64)
            }
            (Mnemonic::Lea, ..) => {
                match (instruction.code(), self.value(instruction.memory_base())) {
                    (Code::Lea_r64_m, Value::Coroutine(at))
                        if instruction.memory_index() == Register::None =>
                    {
                        Value::Coroutine(
                            at.wrapping_add(instruction.memory_displacement64() as i64),
                        )
                    }
                    _ => self.address(instruction).map_or(Value::Unknown, Value::Known),
                }
            }
            (Mnemonic::Add, Value::Known(a), Value::Known(b)) => Value::Known(a.wrapping_add(b)),
            (Mnemonic::Add, Value::Coroutine(at), Value::Known(b)) => {
                Value::Coroutine(at.wrapping_add(b as i64))
            }
            (Mnemonic::Sub, Value::Known(a), Value::Known(b)) => Value::Known(a.wrapping_sub(b)),
            (Mnemonic::And, Value::Known(a), Value::Known(b)) => Value::Known(a & b),
            (Mnemonic::Shl, Value::Known(a), Value::Known(b)) if b < 64 => Value::Known(a << b),
            (Mnemonic::Xor, ..) if same => Value::Known(0),
            (Mnemonic::Inc, Value::Known(a), _) => Value::Known(a.wrapping_add(1)),
            (Mnemonic::Dec, Value::Known(a), _) => Value::Known(a.wrapping_sub(1)),
            _ => Value::Unknown,
        };
        let flags = match (instruction.mnemonic(), left, right) {
            (Mnemonic::Cmp | Mnemonic::Sub, Value::Known(left), Value::Known(right)) => {
                Some(Flags { left, right, bits })
            }
            (Mnemonic::Test | Mnemonic::And, Value::Known(a), Value::Known(b)) => {
                Some(Flags { left: a & b, right: 0, bits })
            }
            (Mnemonic::Dec, Value::Known(a), _) => {
                Some(Flags { left: a.wrapping_sub(1), right: 0, bits })
            }
            _ => None,
        };
        if instruction.rflags_modified() != 0 {
            self.flags = flags;
        }
        let target = match instruction.op_count() {
            0 => None,
            _ if instruction.op0_kind() == OpKind::Register => Some(instruction.op0_register()),
            _ => None,
        };
        // Writing less than 32 bits keeps the rest of the register.
        if let (Some(register), Value::Known(value)) = (target, result) {
            result = match register.size() {
                8 => result,
                4 => Value::Known(value & mask(32)),
                _ => Value::Unknown,
            };
        }
        if let Some((slot, bytes)) = stack_store(instruction) {
            self.stack.retain(|other, _| *other + 8 <= slot || *other >= slot + bytes);
            if instruction.code() == Code::Mov_rm64_r64 {
                self.stack.insert(slot, right);
            }
        }
        if written & bit(RSP) != 0 {
            self.stack.clear();
        }
        let target = target.and_then(gpr);
        for number in 0..16 {
            if written & 1 << number == 0 {
                continue;
            }
            self.registers[number] = if target == Some(number) { result } else { Value::Unknown };
        }
    }
}

impl Flags {
    /// Whether a condition holds; `None` for those that no dispatch uses.
    fn holds(self, condition: ConditionCode) -> Option<bool> {
        let (left, right) = (self.left & mask(self.bits), self.right & mask(self.bits));
        let signed = |value: u64| match self.bits {
            0 | 64.. => value as i64,
            bits => (value << (64 - bits)) as i64 >> (64 - bits),
        };
        Some(match condition {
            ConditionCode::e => left == right,
            ConditionCode::ne => left != right,
            ConditionCode::b => left < right,
            ConditionCode::ae => left >= right,
            ConditionCode::be => left <= right,
            ConditionCode::a => left > right,
            ConditionCode::l => signed(left) < signed(right),
            ConditionCode::ge => signed(left) >= signed(right),
            ConditionCode::le => signed(left) <= signed(right),
            ConditionCode::g => signed(left) > signed(right),
            ConditionCode::s => signed(left.wrapping_sub(right) & mask(self.bits)) < 0,
            ConditionCode::ns => signed(left.wrapping_sub(right) & mask(self.bits)) >= 0,
            _ => return None,
        })
    }
}

fn mask(bits: u32) -> u64 {
    match bits {
        0 | 64.. => u64::MAX,
        bits => (1 << bits) - 1,
    }
}

/// Width of the first operand.
fn operand_bits(instruction: &Instruction) -> u32 {
    match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size() as u32 * 8,
        OpKind::Memory => instruction.memory_size().size() as u32 * 8,
        _ => 64,
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}
