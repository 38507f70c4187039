//! The device code of a Rust handler while it is written: structs, functions, and the texts of faults.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::constants::DeviceConstant;
use crate::message::record::{Plain, PlainType, RecordLayout};

/// Codes of faults start here; those of a [`DeviceError`](super::DeviceError) are greater.
pub(crate) const FIRST_FAULT: i32 = i32::MIN;

/// A function that device code can call: `#[device_fn]` implements it for an item of the function's name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a device function",
    label = "has no device code",
    note = "put `#[device_fn]` on the function"
)]
pub trait DeviceFunction {
    /// Distinguishes it from every other function.
    const KEY: &'static str;
    /// Returns its declaration under this name.
    fn prototype(unit: &mut DeviceUnit, name: &str) -> String;
    /// Returns its definition under this name.
    fn definition(unit: &mut DeviceUnit, name: &str) -> String;
    /// Returns the type of a parameter.
    fn parameter(unit: &mut DeviceUnit, index: usize) -> String;
    /// Returns the type of its result.
    fn result(unit: &mut DeviceUnit) -> String;
}

/// Collects the device code of a handler. The macros' output calls it.
#[derive(Debug, Default)]
pub struct DeviceUnit {
    structs: String,
    /// The records of `structs`, without those nested in them.
    records: Vec<RecordLayout>,
    /// Names of functions by their keys.
    functions: BTreeMap<&'static str, String>,
    /// Numbers of the arrays among the constants.
    tables: BTreeMap<String, usize>,
    constants: String,
    prototypes: String,
    definitions: String,
    faults: Vec<String>,
    /// Functions whose definition is being written.
    open: Vec<&'static str>,
    /// A function that calls itself through others.
    recursive: Option<&'static str>,
}

impl DeviceUnit {
    /// Returns the C++ name of a type, whose struct becomes part of the text.
    pub fn type_name<T: Plain>(&mut self) -> String {
        self.plain_type(&T::TYPE)
    }

    fn plain_type(&mut self, ty: &PlainType) -> String {
        match ty {
            PlainType::Scalar(name) => (*name).to_owned(),
            PlainType::Array { len, element } => {
                format!("dc::rust::Array<{}, {len}ull>", self.plain_type(element))
            }
            PlainType::Record(layout) => {
                if !self.records.contains(layout) {
                    self.records.push(**layout);
                    self.structs.push_str(&layout.c_struct());
                }
                layout.name.to_owned()
            }
        }
    }

    /// Returns the length of an array.
    pub fn length(&mut self, len: usize) -> String {
        format!("{len}ull")
    }

    /// Returns a constant's type.
    pub fn constant_type<T: DeviceConstant>(&mut self, _: &T) -> String {
        let mut lengths = Vec::new();
        T::lengths(&mut lengths);
        lengths
            .iter()
            .rev()
            .fold(T::ELEMENT[0].to_owned(), |element, len| format!("dc::rust::Array<{element}, {len}ull>"))
    }

    /// Returns a constant's value. That of an array is stored once.
    pub fn constant<T: DeviceConstant>(&mut self, value: &T) -> String {
        let ty = self.constant_type(value);
        let (mut lengths, mut words) = (Vec::new(), String::new());
        T::lengths(&mut lengths);
        value.write(&mut words);
        let word = T::ELEMENT[1];
        if lengths.is_empty() {
            return format!("dc::rust::copy_bits<{ty}>(static_cast<{word}>({words}))");
        }
        let lengths: String = lengths.iter().map(|len| format!("[{len}]")).collect();
        let count = self.tables.len();
        let index = *self.tables.entry(format!("{word}{lengths}{words}")).or_insert(count);
        if index == count {
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                self.constants,
                "static __device__ const {word} dc_table_{index}{lengths} = {words};"
            );
        }
        format!("dc::rust::table<{ty}>(dc_table_{index})")
    }

    /// Returns the line directive for a line of the user's file.
    pub fn line(&mut self, file: &str, line: u32) -> String {
        format!("#line {line} {file:?}")
    }

    /// Returns the code of a fault at a line of the user's file.
    pub fn fault(&mut self, file: &str, line: u32, text: &str) -> String {
        self.faults.push(format!("{file}:{line}: {text}"));
        format!("static_cast<int32_t>({}u)", (FIRST_FAULT as u32) + (self.faults.len() as u32 - 1))
    }

    /// Returns a function's name. Its text is written once.
    pub fn function<F: DeviceFunction>(&mut self) -> String {
        if self.open.contains(&F::KEY) {
            self.recursive = Some(F::KEY);
        }
        if let Some(name) = self.functions.get(F::KEY) {
            return name.clone();
        }
        let name = format!("dc_function_{}", self.functions.len());
        self.functions.insert(F::KEY, name.clone());
        self.open.push(F::KEY);
        let prototype = F::prototype(self, &name);
        let definition = F::definition(self, &name);
        self.open.pop();
        self.prototypes.push_str(&prototype);
        self.definitions.push_str(&definition);
        name
    }

    /// Returns the type of a function's parameter.
    pub fn parameter<F: DeviceFunction>(&mut self, index: usize) -> String {
        F::parameter(self, index)
    }

    /// Returns the type of a function's result.
    pub fn result<F: DeviceFunction>(&mut self) -> String {
        F::result(self)
    }

    /// Returns the whole text, its records and the texts of its faults.
    ///
    /// # Errors
    ///
    /// The key of a function that calls itself.
    pub(crate) fn finish(
        self,
        handler: &str,
        each_thread: bool,
    ) -> Result<(String, Vec<RecordLayout>, Vec<String>), &'static str> {
        if let Some(key) = self.recursive {
            return Err(key);
        }
        let mut text = String::from("#include \"rust.cuh\"\n");
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "namespace dc {{ namespace rust {{ static constexpr bool each_thread = {each_thread}; }} }}"
        );
        for part in [&self.structs, &self.constants, &self.prototypes, &self.definitions, handler] {
            text.push_str(part);
        }
        Ok((text, self.records, self.faults))
    }
}
