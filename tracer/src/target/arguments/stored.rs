//! Plain functions that store what they are given: `fn transition_to(&mut self, next: State)`.
//! The instruction that stores the argument runs only if the function decides to, which its entry
//! would not tell.

use iced_x86::{Code, FlowControl, Instruction, OpKind, Register};

use super::super::decode::{CALLER_SAVED, RDI, RDX, RSI, RSP, direct_target, gpr};
use super::super::scan::Scan;
use super::super::sites::{Writes, bit, body};
use super::super::{Function, Image, Shape, Site};
use super::variants;

/// Functions longer than this are not looked into.
const MAX_INSTRUCTIONS: usize = 20_000;

/// Where a function stores an argument of one byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredArgument {
    /// The instructions, each with the number of the register that holds the value.
    pub sites: Vec<(Site, u8)>,
    /// What the value means.
    pub shape: Shape,
}

/// Which argument each register holds; the outer `None`: nothing leads here, as far as is known.
type State = Option<[Option<usize>; 16]>;

/// Where `function` stores an argument, an enum of type `type`, in what another one points to.
///
/// # Errors
/// It does not, or not certainly: why, for a person.
pub(in crate::target) fn find(
    image: &Image,
    scan: &Scan,
    function: &Function,
    r#type: &str,
) -> Result<StoredArgument, String> {
    let debug = format!("<{type} as core::fmt::Debug>::fmt");
    let copies = image.symbols().named(&debug).iter().flat_map(|debug| &debug.copies);
    let names = copies.map(|(addr, _)| variants::of_debug(image, scan, *addr));
    let Some(names) = names.max_by_key(Vec::len).filter(|names| !names.is_empty()) else {
        return Err(format!("the names of `{type}`'s variants cannot be read from its Debug"));
    };
    let (mut sites, mut places) = (Vec::new(), Vec::new());
    for (addr, _) in &function.copies {
        let code = body(image, *addr);
        if code.len() > MAX_INSTRUCTIONS {
            return Err("its code is too long".to_owned());
        }
        for (instruction, state) in code.iter().zip(flow(&code)) {
            let Some((place, register)) = stores_argument(instruction, &state) else { continue };
            let Some(site) = image.site(instruction.ip()) else {
                return Err("the instruction that stores it cannot be probed".to_owned());
            };
            places.push(place);
            sites.push((site, register));
        }
    }
    places.sort_unstable();
    places.dedup();
    match places.len() {
        1 => Ok(StoredArgument { sites, shape: Shape::Variant { names, other: None } }),
        0 => Err("its code shows no place where it stores an argument of one byte".to_owned()),
        _ => Err("it stores more than one argument of one byte".to_owned()),
    }
}

/// If the instruction stores an argument's byte where another argument points to: which, where,
/// and the register with the byte.
fn stores_argument(instruction: &Instruction, state: &State) -> Option<((usize, usize, u64), u8)> {
    let high = [Register::AH, Register::BH, Register::CH, Register::DH];
    let is_store = instruction.code() == Code::Mov_rm8_r8
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_index() == Register::None
        && !high.contains(&instruction.op1_register());
    let registers = state.as_ref().filter(|_| is_store)?;
    let register = gpr(instruction.op1_register())?;
    let value = registers[register]?;
    let base = registers[gpr(instruction.memory_base()).filter(|base| *base != RSP)?]?;
    let place = (base, value, instruction.memory_displacement64());
    (base != value).then_some((place, register as u8))
}

/// What each register holds before each instruction, on every way there.
fn flow(code: &[Instruction]) -> Vec<State> {
    let index = |addr: u64| code.binary_search_by_key(&addr, Instruction::ip).ok();
    let ends = |instruction: &Instruction| {
        !matches!(
            instruction.flow_control(),
            FlowControl::Next
                | FlowControl::ConditionalBranch
                | FlowControl::Call
                | FlowControl::IndirectCall
        )
    };
    let mut targets: Vec<_> = code.iter().filter_map(direct_target).filter_map(index).collect();
    targets.sort_unstable();
    // Where nothing else leads, jump tables do.
    let tables: Vec<_> = (1..code.len())
        .filter(|at| ends(&code[at - 1]) && targets.binary_search(at).is_err())
        .collect();
    let mut states: Vec<State> = vec![None; code.len()];
    let mut writes = Writes::new();
    let written: Vec<_> = code.iter().map(|instruction| writes.of(instruction)).collect();
    let mut entry = [None; 16];
    for (argument, register) in [RDI, RSI, RDX].into_iter().enumerate() {
        entry[register] = Some(argument);
    }
    let mut waiting = Vec::new();
    let join = |states: &mut Vec<State>, waiting: &mut Vec<usize>, at: usize, new: [_; 16]| {
        let Some(state) = states.get_mut(at) else { return };
        let joined = match state {
            None => new,
            Some(old) => std::array::from_fn(|n| if old[n] == new[n] { old[n] } else { None }),
        };
        if *state != Some(joined) {
            *state = Some(joined);
            waiting.push(at);
        }
    };
    join(&mut states, &mut waiting, 0, entry);
    // A state only ever loses what it holds, so this ends.
    while let Some(at) = waiting.pop() {
        let Some(mut registers) = states[at] else { continue };
        let instruction = &code[at];
        let copied = copied(instruction).and_then(|from| registers[from]);
        let control = instruction.flow_control();
        let to = (instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register)
            .then(|| gpr(instruction.op0_register()))
            .flatten();
        for (number, register) in registers.iter_mut().enumerate() {
            if written[at] & bit(number) != 0 {
                *register = if to == Some(number) { copied } else { None };
            }
        }
        if matches!(control, FlowControl::Call | FlowControl::IndirectCall) {
            for number in CALLER_SAVED {
                registers[number] = None;
            }
        }
        if !ends(instruction) {
            join(&mut states, &mut waiting, at + 1, registers);
        }
        match control {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                if let Some(target) = direct_target(instruction).and_then(index) {
                    join(&mut states, &mut waiting, target, registers);
                }
            }
            FlowControl::IndirectBranch => {
                for target in &tables {
                    join(&mut states, &mut waiting, *target, registers);
                }
            }
            _ => {}
        }
    }
    states
}

/// The register whose value an instruction copies, whole or its lower half.
fn copied(instruction: &Instruction) -> Option<usize> {
    let copies = matches!(
        instruction.code(),
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 | Code::Mov_r32_rm32 | Code::Mov_rm32_r32
    );
    (copies && instruction.op1_kind() == OpKind::Register)
        .then(|| gpr(instruction.op1_register()))
        .flatten()
}
