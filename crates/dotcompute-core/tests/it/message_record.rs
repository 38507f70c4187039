//! Record messages: their layout, and the C struct with the same layout.

// The `unsafe impl` in the derive's output must be accepted in crates that forbid unsafe code.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use dotcompute_core::message::record::{FieldLayout, Plain, PlainType, RecordMessage};
use dotcompute_core::message::{Encode, Message};

#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Quote {
    bid: f64,
    ask: f64,
    size: [u16; 4],
}

#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record, name = "exchange::Book v2")]
#[repr(C)]
struct Book {
    time: u64,
    /// A field whose name is a keyword in Rust but not in C.
    r#type: u32,
    flags: i8,
    _pad: [u8; 3],
    matrix: [[f32; 3]; 2],
    best: Quote,
    deep: [[Quote; 2]; 1],
    bytes: [i16; 3],
    half: u8,
    _pad_end: [u8; 1],
}

/// A record of one cache line.
#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C, align(64))]
struct Line {
    value: i64,
    count: i32,
    kind: u32,
    rest: [u8; 48],
}

const QUOTE: Quote = Quote { bid: 1.0, ask: 2.0, size: [1, 2, 3, 4] };

#[test]
fn the_layout_is_that_of_rust() {
    let book = Book::LAYOUT;
    assert_eq!((book.name, book.size, book.align), ("exchange__Book_v2", size_of::<Book>(), 8));
    assert_eq!(Book::TYPE_NAME, "exchange::Book v2");
    let field = |name: &str| *book.fields.iter().find(|field| field.name == name).expect("the field exists");
    let f32s = PlainType::Array { len: 3, element: &PlainType::Scalar("float") };
    assert_eq!(
        field("matrix"),
        FieldLayout {
            name: "matrix",
            offset: 16,
            size: 24,
            align: 4,
            ty: PlainType::Array {
                len: 2,
                element: const { &PlainType::Array { len: 3, element: &PlainType::Scalar("float") } }
            },
        }
    );
    assert_eq!((f32s.c_type(), f32s.dims()), ("float", vec![3]));
    assert_eq!((field("deep").ty.c_type(), field("deep").ty.dims()), ("Quote", vec![1, 2]));
    assert_eq!(field("best").ty, Quote::TYPE);
    assert_eq!(field("type").offset, 8);
    assert_eq!(
        book.fields.iter().map(|field| field.size).sum::<usize>(),
        book.size,
        "no byte is outside the fields"
    );
    assert!(book.fields.is_sorted_by_key(|field| field.offset));
}

#[test]
fn a_record_is_an_ordinary_message_too() {
    assert_eq!(Quote::decode(&QUOTE.encode().expect("encodes")), Ok(QUOTE));
    // serde has no impls for arrays of more than 32 elements.
    let line = Line { value: -1, count: 2, kind: 3, rest: std::array::from_fn(|i| i as u8) };
    assert_eq!(Line::decode(&line.encode().expect("encodes")), Ok(line));
}

#[test]
fn the_c_struct_has_fields_and_assertions() {
    let text = Quote::c_struct();
    let body = text.split_once("\n#ifndef DOTCOMPUTE_RECORD_Quote\n").expect("an include guard").1;
    assert_eq!(
        body,
        "#define DOTCOMPUTE_RECORD_Quote
typedef struct Quote {
    double bid; /* offset 0 */
    double ask; /* offset 8 */
    uint16_t size[4]; /* offset 16 */
} Quote;
static_assert(sizeof(Quote) == 24, \"Quote: size differs from Rust\");
static_assert(alignof(Quote) == 8, \"Quote: alignment differs from Rust\");
static_assert(DOTCOMPUTE_OFFSETOF(Quote, bid) == 0, \"Quote.bid: offset differs from Rust\");
static_assert(DOTCOMPUTE_OFFSETOF(Quote, ask) == 8, \"Quote.ask: offset differs from Rust\");
static_assert(DOTCOMPUTE_OFFSETOF(Quote, size) == 16, \"Quote.size: offset differs from Rust\");
#endif
"
    );
}

/// Compiles `text`; returns whether it succeeded and the compiler's output, or `None` if there is no such compiler.
fn compile(compiler: &str, language: &[&str], file: &Path, text: &str) -> Option<(bool, String)> {
    std::fs::write(file, text).expect("the temporary folder is writable");
    let output = Command::new(compiler)
        .args(language)
        .args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
        .arg(file)
        .output();
    match output {
        Ok(output) => Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())),
        Err(error) => {
            eprintln!("skipped: the C compiler `{compiler}` does not run here: {error}");
            None
        }
    }
}

#[test]
fn c_and_cpp_compilers_agree_with_the_layout() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Two messages with the same nested record in one translation unit.
    let text = Book::c_struct() + &Line::c_struct() + &Quote::c_struct();
    // The assertions must hold, and a wrong one must fail.
    let wrong = text.replace("DOTCOMPUTE_OFFSETOF(Quote, ask) == 8", "DOTCOMPUTE_OFFSETOF(Quote, ask) == 9");
    assert_ne!(wrong, text);
    for (compiler, language, file) in
        [("cc", ["-x", "c", "-std=c11"], "record.c"), ("c++", ["-x", "c++", "-std=c++17"], "record.cpp")]
    {
        let file = folder.path().join(file);
        if let Some((accepted, printed)) = compile(compiler, &language, &file, &text) {
            assert!(accepted, "{compiler} failed:\n{printed}\n{text}");
        }
        if let Some((accepted, printed)) = compile(compiler, &language, &file, &wrong) {
            assert!(!accepted && printed.contains("Quote.ask: offset differs from Rust"), "{printed}");
        }
    }
}
