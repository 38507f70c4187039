//! Compile errors of invalid uses of `#[derive(Message)]`: each names the field and what to do.
//!
//! After a change, or with another compiler, `TRYBUILD=overwrite cargo test --test compile_errors` updates the expected errors.
//! Review the difference.

#[test]
fn compile_errors_name_the_field_and_say_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/compile_errors/*.rs");
}
