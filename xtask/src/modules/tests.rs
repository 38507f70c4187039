//! The check finds circles that are put into small crates, and nothing else.

use std::fs;

use super::*;

/// Writes a crate of these files and returns its circles.
fn circles(name: &str, files: &[(&str, &str)]) -> Vec<Circle> {
    let folder = std::env::temp_dir().join(format!("dotcompute-modules-{}-{name}", std::process::id()));
    for (file, text) in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let circles = circles_of(&folder.join("lib.rs")).unwrap();
    fs::remove_dir_all(folder).unwrap();
    circles
}

#[test]
fn two_files_that_import_from_each_other_are_reported_with_the_paths() {
    let found = circles(
        "pair",
        &[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A(B);"),
            ("b.rs", "pub struct B; fn f(_: super::a::A) {}"),
        ],
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].files, ["a.rs", "b.rs"]);
    let text = found[0].to_string();
    assert!(text.contains("a.rs uses `crate::b::B`, defined in b.rs"), "{text}");
    assert!(text.contains("b.rs uses `super::a::A`, defined in a.rs"), "{text}");
}

#[test]
fn a_path_through_a_reexport_counts_for_the_file_that_defines_the_item() {
    let files = [
        ("lib.rs", "mod a; pub mod b;"),
        ("a.rs", "use crate::b::Deep; pub struct A(Deep);"),
        ("b/mod.rs", "mod deep; mod other; pub use deep::Deep;"),
        ("b/deep.rs", "pub struct Deep; use super::other::f;"),
        ("b/other.rs", "use crate::a::A; pub fn f(_: A) {}"),
    ];
    let found = circles("reexport", &files);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].files, ["a.rs", "b/deep.rs", "b/other.rs"]);
}

#[test]
fn a_child_that_uses_its_parents_item_is_a_circle_only_if_the_parent_uses_the_child() {
    let child = ("b/deep.rs", "use super::Part; pub struct Deep(Part);");
    let reexporting = ("b/mod.rs", "mod deep; pub use deep::Deep; pub struct Part;");
    assert_eq!(circles("child", &[("lib.rs", "mod b;"), reexporting, child]), []);
    let using = ("b/mod.rs", "mod deep; use deep::Deep; pub struct Part; fn f(_: Deep) {}");
    assert_eq!(circles("parent", &[("lib.rs", "mod b;"), using, child])[0].files, ["b/deep.rs", "b/mod.rs"]);
}

#[test]
fn tests_globs_other_crates_and_inline_modules_are_told_apart() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::*; pub struct A(B); mod inner { pub fn f() {} } fn g() { inner::f() }"),
        (
            "b.rs",
            "use std::fmt; pub struct B; #[cfg(test)] mod tests { use crate::a::A; } #[cfg(all(test, not(loom)))] fn t(_: crate::a::A) {} fn h(_: fmt::Error) {}",
        ),
    ];
    assert_eq!(circles("apart", &files), []);
}

#[test]
fn longer_circles_are_shown_once_with_a_shortest_way_round() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        ("b.rs", "use crate::c; pub struct B(c::C);"),
        ("c.rs", "pub struct C(Box<crate::a::A>);"),
    ];
    let found = circles("long", &files);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].steps.len(), 3);
}
