//! NVRTC without its builtins library. A program of its own: once loaded, the library stays in the process.

mod common;

#[cfg(unix)]
#[test]
fn a_compiler_without_its_builtins_is_an_error_that_names_them() {
    use common::{ARCHITECTURES, scale, search};
    use dotcompute_cuda::compile::{CompileError, Toolchain};
    use dotcompute_cuda::library::{Component, Search};
    use dotcompute_cuda::nvrtc::Nvrtc;

    let Some(wheels) = std::env::var_os("DOTCOMPUTE_TEST_WHEELS") else {
        return common::skipped(
            "`cargo xtask test --only cubins` runs this test, with wheels whose builtins library it can hide",
        );
    };
    let file = std::path::Path::new(&wheels).join("nvidia/cu13/lib/libnvrtc.so.13");
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&file, folder.path().join("libnvrtc.so.13")).unwrap();
    let alone = Search::empty().at(Component::Nvrtc, folder.path());
    let error = Toolchain::load(&alone).unwrap().compile(&scale(ARCHITECTURES[1])).unwrap_err();
    assert!(matches!(&error, CompileError::Nvrtc { source, .. } if source.code == 7), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("libnvrtc-builtins belongs beside libnvrtc"), "{text}");
    assert!(text.contains("failed to open libnvrtc-builtins.so"), "{text}");

    // With the builtins loaded, the same library compiles.
    Nvrtc::load(&search()).unwrap();
    assert!(Toolchain::load(&alone).unwrap().compile(&scale(ARCHITECTURES[1])).is_ok());
}
