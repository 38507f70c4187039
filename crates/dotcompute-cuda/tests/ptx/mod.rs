//! Reading PTX: which memory each instruction of a kernel touches, as far as it can be followed from the kernel's parameters.
//!
//! A register that holds a parameter, or what is reckoned from one, points into that parameter's memory, at a known distance or, once a
//! number that is not known has been added, at a distance and something. What a thread puts into shared memory and takes out again is
//! followed too: where both name the place, or else as what may be anywhere there. So is a pointer that is read from a table.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The memory that an address is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// What the parameter at this offset of the kernel's argument points to.
    Parameter(u64),
    /// What the pointers in the table of pointers point to.
    Table,
    /// A variable of the kernel's own.
    Variable,
}

/// A place: so many bytes behind where the root begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub root: Root,
    pub offset: i64,
    /// Whether something unknown is added to the offset.
    pub varies: bool,
}

/// An access to memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The instruction without its type and its address space, such as `ld.relaxed.sys` or `st`.
    pub instruction: String,
    /// Where; more than one if the address comes from several, none if it could not be followed.
    pub places: Vec<Place>,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.instruction, self.places)
    }
}

/// Places by root: one for each, the lowest.
type Places = BTreeMap<Root, (i64, bool)>;

fn join(into: &mut Places, more: &Places) {
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
    /// None if the line is none.
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

    /// Bytes of what is moved, or of each part of it.
    fn width(&self) -> i64 {
        let bits = self.name.last().and_then(|kind| kind[1..].parse::<i64>().ok());
        bits.unwrap_or(64) / 8
    }

    /// Its name without what says nothing of order.
    fn order(&self) -> String {
        let kept = [
            "ld", "st", "atom", "red", "volatile", "relaxed", "acquire", "release", "acq_rel", "sys", "gpu",
            "cta",
        ];
        // An atom that says nothing is relaxed.
        let says = |part: &&str| kept.contains(part) && !(*part == "relaxed" && self.is("atom"));
        let parts: Vec<&str> = self.name.iter().copied().filter(says).collect();
        parts.join(".")
    }
}

/// Operands, with vectors kept whole.
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

/// The registers of an operand: one, or those of a vector.
fn registers(operand: &str) -> Vec<&str> {
    operand.trim_matches(['{', '}']).split(',').map(str::trim).collect()
}

/// Where pointers are in memory: the first of each so many bytes.
#[derive(Debug, Clone)]
pub struct Table {
    pub root: Root,
    pub offsets: Range<i64>,
    pub stride: usize,
}

impl Table {
    fn is_pointer(&self, places: &Places) -> bool {
        let offset = places.get(&self.root).map(|&(offset, _)| offset);
        offset
            .is_some_and(|offset| self.offsets.clone().step_by(self.stride).any(|pointer| pointer == offset))
    }
}

/// What is known of a kernel's registers and of its shared memory.
struct Known<'a> {
    pointers: &'a [u64],
    table: Table,
    registers: BTreeMap<String, Places>,
    shared: BTreeMap<i64, Places>,
    /// What was put into shared memory at a place that is not known.
    anywhere: Places,
}

impl Known<'_> {
    fn of(&self, operand: &str) -> Places {
        if operand.starts_with('%') {
            return self.registers.get(operand).cloned().unwrap_or_default();
        }
        let is_name = operand.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
        if is_name { Places::from([(Root::Variable, (0, false))]) } else { Places::new() }
    }

    /// The places of an address `[base+offset]`.
    fn address(&self, operand: &str) -> Places {
        let inner = operand.trim_matches(['[', ']']);
        let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        let offset: i64 = offset.parse().unwrap_or(0);
        self.of(base).into_iter().map(|(root, (at, varies))| (root, (at + offset, varies))).collect()
    }

    fn learn(&mut self, instruction: &Instruction<'_>) {
        let Some((target, sources)) = instruction.operands.split_first() else { return };
        match instruction.name[0] {
            "ld" if instruction.is("param") => self.load_parameter(instruction, target, sources),
            "ld" => self.load(instruction, target, sources),
            "st" => self.store(instruction, target, sources),
            "atom" | "red" => {}
            _ => self.reckon(instruction, target, sources),
        }
    }

    fn set(&mut self, register: &str, places: &Places) {
        join(self.registers.entry(register.to_owned()).or_default(), places);
    }

    fn load_parameter(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let places = self.address(sources[0]);
        let Some(&(offset, _)) = places.get(&Root::Variable) else { return };
        for (index, register) in registers(target).into_iter().enumerate() {
            let at = (offset + instruction.width() * index as i64) as u64;
            if self.pointers.contains(&at) {
                self.set(register, &Places::from([(Root::Parameter(at), (0, false))]));
            }
        }
    }

    fn load(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let places = self.address(sources[0]);
        if self.table.is_pointer(&places) {
            self.set(registers(target)[0], &Places::from([(Root::Table, (0, true))]));
        }
        let Some(&(offset, varies)) = places.get(&Root::Variable) else { return };
        if varies {
            let anywhere = self.anywhere.clone();
            registers(target).into_iter().for_each(|register| self.set(register, &anywhere));
            return;
        }
        for (index, register) in registers(target).into_iter().enumerate() {
            let kept = self.shared.get(&(offset + instruction.width() * index as i64)).cloned();
            self.set(register, &kept.unwrap_or_default());
        }
    }

    fn store(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let places = self.address(target);
        let Some(&(offset, varies)) = places.get(&Root::Variable) else { return };
        for (index, register) in registers(sources[0]).into_iter().enumerate() {
            let value = self.of(register);
            if varies {
                join(&mut self.anywhere, &value);
                continue;
            }
            join(self.shared.entry(offset + instruction.width() * index as i64).or_default(), &value);
        }
    }

    /// Arithmetic and moves: the target points to where any of the sources does.
    fn reckon(&mut self, instruction: &Instruction<'_>, target: &str, sources: &[&str]) {
        let sign = if instruction.name[0] == "sub" { -1 } else { 1 };
        let number: Option<i64> = sources.iter().find_map(|source| source.parse().ok());
        let moves = matches!(instruction.name[0], "mov" | "cvta" | "cvt" | "selp");
        let mut result = Places::new();
        for places in sources.iter().map(|source| self.of(source)) {
            let shift = |(root, (at, varies)): (Root, (i64, bool))| match number {
                _ if moves => (root, (at, varies)),
                Some(number) if matches!(instruction.name[0], "add" | "sub") => {
                    (root, (at + sign * number, varies))
                }
                _ => (root, (at, true)),
            };
            join(&mut result, &places.into_iter().map(shift).collect());
        }
        self.set(target, &result);
    }
}

/// The accesses of the one kernel in a text, but for those to its parameters. `pointers`: the parameters that are pointers, by their
/// offsets; `table`: where more pointers are.
pub fn accesses(ptx: &str, pointers: &[u64], table: Table) -> Vec<Access> {
    let instructions: Vec<Instruction<'_>> = ptx.lines().filter_map(Instruction::parse).collect();
    let (registers, shared) = (BTreeMap::new(), BTreeMap::new());
    let mut known = Known { pointers, table, registers, shared, anywhere: Places::new() };
    // Registers are written before they are read but in loops, which a second round closes; what is put anywhere takes one more.
    for _ in 0..4 {
        for instruction in &instructions {
            known.learn(instruction);
        }
    }
    let is_access =
        |one: &&Instruction<'_>| matches!(one.name[0], "ld" | "st" | "atom" | "red") && !one.is("param");
    let access = |one: &Instruction<'_>| {
        let address = one.operands.iter().find(|operand| operand.starts_with('['));
        let places = address.map(|address| known.address(address)).unwrap_or_default();
        let places = places.into_iter().map(|(root, (offset, varies))| Place { root, offset, varies });
        Access { instruction: one.order(), places: places.collect() }
    };
    instructions.iter().filter(is_access).map(access).collect()
}
