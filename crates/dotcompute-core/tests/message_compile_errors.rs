//! What the compiler says to a wrong `#[derive(Message)]`: it names the field and what to do.
//!
//! After a change, or with another compiler, `TRYBUILD=overwrite cargo test --test message_compile_errors` writes the
//! messages anew; read the difference.

#[test]
fn compile_errors_name_the_field_and_say_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/compile_errors/*.rs");
}
