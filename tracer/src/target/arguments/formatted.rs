//! `core::fmt::rt::Argument`, as code builds it in its stack frame: the address of a value, and
//! behind it the function that formats values of its type. No other code puts a function of
//! `core::fmt` behind an address, so the pair says of what type the value is.

use std::collections::HashMap;

use iced_x86::{Code, FlowControl, Instruction, OpKind, Register};

use super::super::coroutine::Facts;
use super::super::decode::{CALLER_SAVED, RSP, direct_target, gpr, stack_slot, stack_store};
use super::super::sites::{Writes, bit};
use super::super::{Image, SelfRegister};
use super::state_zero::{Value, added, function_taken, number_loaded};

/// Words of the stack frame of which half a pair is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    addresses: HashMap<i64, Value>,
    functions: HashMap<i64, u64>,
}

impl Pairs {
    /// `value` is stored at `slot`. Returns the pair that this completes.
    pub(super) fn store(
        &mut self,
        slot: i64,
        len: i64,
        value: Option<Value>,
    ) -> Option<(Value, u64)> {
        self.addresses.retain(|other, _| *other + 8 <= slot || *other >= slot + len);
        self.functions.retain(|other, _| *other + 8 <= slot || *other >= slot + len);
        match value? {
            Value::Function(function) => {
                self.functions.insert(slot, function);
                self.addresses.get(&(slot - 8)).map(|address| (*address, function))
            }
            address => {
                self.addresses.insert(slot, address);
                self.functions.get(&(slot + 8)).map(|function| (address, *function))
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.addresses.clear();
        self.functions.clear();
    }
}

/// A pass over all the code of a poll function, state by state: which words of the coroutine are
/// used as pointers to values that are formatted.
#[derive(Debug, Default)]
pub(super) struct Everywhere {
    /// The word, what was added to it, and the function that formats what is there.
    pub formatted: Vec<(Value, u64)>,
    /// Places in the coroutine that are written, or whose address is taken.
    pub written: Vec<(i64, i64)>,
}

/// Looks at all of `code`.
pub(super) fn everywhere(image: &Image, code: &[Instruction], own: SelfRegister) -> Everywhere {
    let facts = Facts::of(code, own);
    let mut targets: Vec<_> = code.iter().filter_map(direct_target).collect();
    targets.sort_unstable();
    let known = facts.registers().map(|at| at.map(Value::Own));
    let mut found = Everywhere::default();
    let mut writes = Writes::new();
    let mut registers = known;
    registers[facts.own_register()] = Some(Value::Own(0));
    let mut stack: HashMap<i64, Value> = HashMap::new();
    let mut pairs = Pairs::default();
    for instruction in code {
        if targets.binary_search(&instruction.ip()).is_ok() {
            registers = known;
            stack.clear();
            pairs.clear();
        }
        let written = writes.of(instruction);
        let value = |register: Register| {
            gpr(register).filter(|_| register.is_gpr64()).and_then(|number| registers[number])
        };
        let place = match value(instruction.memory_base()) {
            Some(Value::Own(at)) if instruction.memory_index() == Register::None => {
                Some(at.wrapping_add(instruction.memory_displacement64() as i64))
            }
            _ => None,
        };
        let loaded = |place: Option<i64>| {
            let slot = u32::try_from(place?).ok()?;
            Some(Value::Captured { slot, offset: 0 })
        };
        let result = if let Some(function) = function_taken(image, instruction) {
            Some(Value::Function(function))
        } else {
            match instruction.code() {
                Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                    if instruction.op0_kind() == OpKind::Register =>
                {
                    if instruction.op1_kind() == OpKind::Register {
                        value(instruction.op1_register())
                    } else if let Some(slot) = stack_slot(instruction) {
                        let always = facts.stack_slot(slot).map(Value::Own);
                        always.or_else(|| stack.get(&slot).copied())
                    } else {
                        loaded(place)
                    }
                }
                Code::Lea_r64_m if instruction.memory_index() == Register::None => {
                    let by = instruction.memory_displacement64() as i64;
                    value(instruction.memory_base()).and_then(|value| value.moved(by))
                }
                Code::Add_r64_rm64 | Code::Add_rm64_r64
                    if instruction.op0_kind() == OpKind::Register =>
                {
                    let other = match instruction.op1_kind() {
                        OpKind::Register => value(instruction.op1_register()),
                        _ => loaded(place),
                    };
                    let own = value(instruction.op0_register());
                    own.and_then(|own| other.and_then(|other| own.plus(other)))
                }
                _ => number_loaded(instruction).or_else(|| {
                    let by = added(instruction)?;
                    value(instruction.op0_register())?.moved(by)
                }),
            }
        };
        if instruction.code() == Code::Lea_r64_m
            && let Some(at) = place
        {
            found.written.push((at, at + 8));
        }
        let stores = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
        if let Some((slot, len)) = stack_store(instruction) {
            let stored = match instruction.code() {
                Code::Mov_rm64_r64 => value(instruction.op1_register()),
                _ => None,
            };
            stack.retain(|other, _| *other + 8 <= slot || *other >= slot + len);
            if let Some(stored) = stored {
                stack.insert(slot, stored);
            }
            found.formatted.extend(pairs.store(slot, len, stored));
        } else if stores && let Some(at) = place {
            found.written.push((at, at + instruction.memory_size().size() as i64));
        }
        let target = (instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register)
            .then(|| gpr(instruction.op0_register()))
            .flatten();
        for (number, register) in registers.iter_mut().enumerate() {
            if written & bit(number) != 0 {
                *register = if target == Some(number) { result } else { None };
            }
        }
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            FlowControl::Call | FlowControl::IndirectCall => {
                for number in CALLER_SAVED {
                    registers[number] = known[number];
                }
            }
            _ => {
                registers = known;
                stack.clear();
                pairs.clear();
            }
        }
        let calls = [FlowControl::Call, FlowControl::IndirectCall];
        if written & bit(RSP) != 0 && !calls.contains(&instruction.flow_control()) {
            stack.clear();
            pairs.clear();
        }
    }
    found
}
