//! Static analysis of PTX: the memory that each instruction of a kernel accesses, followed from the kernel's parameters.
//!
//! A register that holds a parameter, or a value computed from one, points into that parameter's memory. Its offset is known until an
//! unknown number is added; then it is a lower bound. Values stored in shared memory and loaded again are followed too: by location if both
//! are known, otherwise as a value that may be anywhere there. So are pointers that are loaded from a table.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The memory that an address points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// The memory that the parameter at this offset of the kernel's argument points to.
    Parameter(u64),
    /// The memory that the pointers in the table point to.
    Table,
    /// A variable of the kernel.
    Variable,
}

/// A location: an offset in bytes from the start of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub root: Root,
    pub offset: i64,
    /// Whether an unknown number is added to the offset.
    pub varies: bool,
}

/// An access to memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The instruction without its type and its address space, such as `ld.relaxed.sys` or `st`.
    pub instruction: String,
    /// The locations: several if the address has several sources, none if it could not be followed.
    pub locations: Vec<Location>,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.instruction, self.locations)
    }
}

/// Locations by root: for each root the lowest.
type Locations = BTreeMap<Root, (i64, bool)>;

fn join(into: &mut Locations, more: &Locations) {
    for (&root, &(offset, varies)) in more {
        let here = into.entry(root).or_insert((offset, varies));
        let differs = here.0 != offset;
        *here = (here.0.min(offset), here.1 || varies || differs);
    }
}

/// An instruction: its name's parts, its operands.
struct Instruction<'a> {
    name: Vec<&'a str>,
    operands: Vec<&'a str>,
}

impl<'a> Instruction<'a> {
    /// Parses a line; none if it is not an instruction.
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let line = if line.starts_with('@') { line.split_once(char::is_whitespace)?.1.trim() } else { line };
        let (name, operands) = line.strip_suffix(';')?.split_once(char::is_whitespace)?;
        if name.starts_with(['.', '/', '{', '}']) {
            return None;
        }
        Some(Self { name: name.split('.').collect(), operands: split(operands) })
    }

    fn is(&self, part: &str) -> bool {
        self.name.contains(&part)
    }

    /// Bytes moved, or bytes of each element of a vector.
    fn width(&self) -> i64 {
        let bits = self.name.last().and_then(|kind| kind[1..].parse::<i64>().ok());
        bits.unwrap_or(64) / 8
    }

    /// Its name without the parts that do not concern ordering.
    fn order(&self) -> String {
        let ordering = [
            "ld", "st", "atom", "red", "volatile", "relaxed", "acquire", "release", "acq_rel", "sys", "gpu",
            "cta",
        ];
        // An `atom` without an ordering is relaxed.
        let is_ordering = |part: &&str| ordering.contains(part) && !(*part == "relaxed" && self.is("atom"));
        let parts: Vec<&str> = self.name.iter().copied().filter(is_ordering).collect();
        parts.join(".")
    }
}

/// Splits operands, but not the elements of a vector.
fn split(text: &str) -> Vec<&str> {
    let mut operands = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (index, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                operands.push(text[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    operands.push(text[start..].trim());
    operands
}

/// The registers of an operand: one, or the elements of a vector.
fn registers(operand: &str) -> Vec<&str> {
    operand.trim_matches(['{', '}']).split(',').map(str::trim).collect()
}

/// Pointers in memory, one at the start of every `stride` bytes.
#[derive(Debug, Clone)]
pub struct Table {
    pub root: Root,
    pub offsets: Range<i64>,
    pub stride: usize,
}

impl Table {
    fn is_pointer(&self, locations: &Locations) -> bool {
        let offset = locations.get(&self.root).map(|&(offset, _)| offset);
        offset
            .is_some_and(|offset| self.offsets.clone().step_by(self.stride).any(|pointer| pointer == offset))
    }
}

/// The known values of a kernel's registers and of its shared memory.
struct KnownValues<'a> {
    pointers: &'a [u64],
    table: Table,
    registers: BTreeMap<String, Locations>,
    shared: BTreeMap<i64, Locations>,
    /// Values stored to shared memory at an unknown location.
    unplaced: Locations,
}

impl KnownValues<'_> {
    fn of(&self, operand: &str) -> Locations {
        if operand.starts_with('%') {
            return self.registers.get(operand).cloned().unwrap_or_default();
        }
        let is_name = operand.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
        if is_name { Locations::from([(Root::Variable, (0, false))]) } else { Locations::new() }
    }

    /// The locations of an address `[base+offset]`.
    fn address(&self, operand: &str) -> Locations {
        let inner = operand.trim_matches(['[', ']']);
        let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        let offset: i64 = offset.parse().unwrap_or(0);
        self.of(base).into_iter().map(|(root, (at, varies))| (root, (at + offset, varies))).collect()
    }

    fn update(&mut self, instruction: &Instruction<'_>) {
        let Some((target, sources)) = instruction.operands.split_first() else { return };
        match instruction.name[0] {
            "ld" if instruction.is("param") => self.load_parameter(instruction, target, sources),
            "ld" => self.load(instruction, target, sources),
            "st" => self.store(instruction, target, sources),
            "atom" | "red" => {}
            _ => self.compute(instruction, target, sources),
        }
    }

    fn set(&mut self, register: &str, locations: &Locations) {
        join(self.registers.entry(register.to_owned()).or_default(), locations);
    }

    fn load_parameter(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let locations = self.address(sources[0]);
        let Some(&(offset, _)) = locations.get(&Root::Variable) else { return };
        for (index, register) in registers(target).into_iter().enumerate() {
            let at = (offset + instruction.width() * index as i64) as u64;
            if self.pointers.contains(&at) {
                self.set(register, &Locations::from([(Root::Parameter(at), (0, false))]));
            }
        }
    }

    fn load(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let locations = self.address(sources[0]);
        if self.table.is_pointer(&locations) {
            self.set(registers(target)[0], &Locations::from([(Root::Table, (0, true))]));
        }
        let Some(&(offset, varies)) = locations.get(&Root::Variable) else { return };
        if varies {
            let unplaced = self.unplaced.clone();
            registers(target).into_iter().for_each(|register| self.set(register, &unplaced));
            return;
        }
        for (index, register) in registers(target).into_iter().enumerate() {
            let stored = self.shared.get(&(offset + instruction.width() * index as i64)).cloned();
            self.set(register, &stored.unwrap_or_default());
        }
    }

    fn store(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let locations = self.address(target);
        let Some(&(offset, varies)) = locations.get(&Root::Variable) else { return };
        for (index, register) in registers(sources[0]).into_iter().enumerate() {
            let value = self.of(register);
            if varies {
                join(&mut self.unplaced, &value);
                continue;
            }
            join(self.shared.entry(offset + instruction.width() * index as i64).or_default(), &value);
        }
    }

    /// Arithmetic and moves: the target points into the memory of every source.
    fn compute(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let sign = if instruction.name[0] == "sub" { -1 } else { 1 };
        let number: Option<i64> = sources.iter().find_map(|source| source.parse().ok());
        let moves = matches!(instruction.name[0], "mov" | "cvta" | "cvt" | "selp");
        let mut result = Locations::new();
        for locations in sources.iter().map(|source| self.of(source)) {
            let shift = |(root, (at, varies)): (Root, (i64, bool))| match number {
                _ if moves => (root, (at, varies)),
                Some(number) if matches!(instruction.name[0], "add" | "sub") => {
                    (root, (at + sign * number, varies))
                }
                _ => (root, (at, true)),
            };
            join(&mut result, &locations.into_iter().map(shift).collect());
        }
        self.set(target, &result);
    }
}

/// The accesses of the only kernel in a text, except those to its parameters. `pointers` are the offsets of the parameters that are
/// pointers; `table` has further pointers.
pub fn accesses(ptx: &str, pointers: &[u64], table: Table) -> Vec<Access> {
    let instructions: Vec<Instruction<'_>> = ptx.lines().filter_map(Instruction::parse).collect();
    let (registers, shared) = (BTreeMap::new(), BTreeMap::new());
    let mut known = KnownValues { pointers, table, registers, shared, unplaced: Locations::new() };
    // Registers are written before they are read, except in loops, which need a second pass. Unplaced values need another.
    for _ in 0..4 {
        for instruction in &instructions {
            known.update(instruction);
        }
    }
    let is_access =
        |one: &&Instruction<'_>| matches!(one.name[0], "ld" | "st" | "atom" | "red") && !one.is("param");
    let access = |one: &Instruction<'_>| {
        let address = one.operands.iter().find(|operand| operand.starts_with('['));
        let locations = address.map(|address| known.address(address)).unwrap_or_default();
        let locations =
            locations.into_iter().map(|(root, (offset, varies))| Location { root, offset, varies });
        Access { instruction: one.order(), locations: locations.collect() }
    };
    instructions.iter().filter(is_access).map(access).collect()
}
