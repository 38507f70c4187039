//! Real text through the real compiler and linker. Without them the tests are skipped: see `common::toolchain`.

mod common;

use std::ffi::CString;

use common::{ARCHITECTURES, scale, search, toolchain};
use dotcompute_cuda::Architecture;
use dotcompute_cuda::compile::{CompileError, Input, LtoIr, NoLinker, Severity, Source, Stage, Toolchain};
use dotcompute_cuda::library::{Component, Search};
use dotcompute_cuda::nvrtc::Nvrtc;

const HOPPER: Architecture = ARCHITECTURES[1];

/// The architecture of a cubin: byte 1 (newer files) or byte 0 of the ELF flags.
fn elf_architecture(cubin: &[u8]) -> [u8; 2] {
    [cubin[48], cubin[49]]
}

#[test]
fn a_kernel_compiles_for_every_architecture_with_and_without_the_linker() {
    let Some(toolchain) = toolchain() else { return };
    for toolchain in [toolchain.clone(), toolchain.without_linker()] {
        for architecture in ARCHITECTURES {
            let kernel = toolchain.compile(&scale(architecture)).unwrap();
            let number = (architecture.major * 10 + architecture.minor) as u8;
            assert!(elf_architecture(kernel.cubin.as_bytes()).contains(&number), "{architecture}");
            assert_eq!(kernel.diagnostics(), [], "{}", kernel.log);

            println!("{architecture}: {:?}", kernel.resource_usage());
            // The handler is inlined: the kernel is the only function and needs no stack for a call.
            let resource_usage = kernel.resource_usage();
            assert_eq!(resource_usage.len(), 1, "{resource_usage:?}");
            assert_eq!(resource_usage[0].function, "scale");
            assert_eq!(
                (resource_usage[0].stack, resource_usage[0].spill_stores, resource_usage[0].spill_loads),
                (0, 0, 0)
            );
            assert!(
                resource_usage[0].registers.is_some_and(|registers| (4..64).contains(&registers)),
                "{resource_usage:?}"
            );
        }
    }
}

#[test]
fn an_error_has_the_users_own_file_and_line() {
    let Some(toolchain) = toolchain() else { return };
    let input = scale(HOPPER).source(
        Source::new(
            "src/detector.rs",
            "__device__ int broken(int x) {\n    int unused;\n    return x + y;\n}\n",
        )
        .line(112),
    );
    for toolchain in [toolchain.clone(), toolchain.without_linker()] {
        let error = toolchain.compile(&input).unwrap_err();
        let [diagnostic] = error.diagnostics() else { panic!("one error: {error}") };
        assert_eq!(diagnostic.severity, Severity::Error);
        assert_eq!(diagnostic.location, Some(("src/detector.rs".into(), 114)));
        assert_eq!(diagnostic.message, "identifier \"y\" is undefined");
        assert!(diagnostic.details.contains("return x + y;"), "{diagnostic}");
        let text = error.to_string();
        assert!(
            text.starts_with("compiling kernel `scale` for sm_90 failed:\nsrc/detector.rs:114: error:"),
            "{text}"
        );
        // The warning for line 113 is in the log only.
        assert!(error.log().contains("src/detector.rs(113): warning"), "{}", error.log());
    }
}

#[test]
fn an_error_in_a_header_has_the_headers_line() {
    let Some(toolchain) = toolchain() else { return };
    let input = Input::new("k", HOPPER)
        .header(Source::new("sub/bad.cuh", "\n\nint f( {\n"))
        .source(Source::new("k.cu", "#include \"sub/bad.cuh\"\n"));
    let error = toolchain.compile(&input).unwrap_err();
    assert!(error.diagnostics().iter().any(|one| one.location == Some(("sub/bad.cuh".into(), 3))), "{error}");

    let error =
        toolchain.compile(&Input::new("k", HOPPER).source(Source::new("k.cu", "\n#include <stdio.h>\n")));
    let error = error.unwrap_err();
    assert_eq!(error.diagnostics()[0].location, Some(("k.cu".into(), 2)), "{error}");
}

#[test]
fn headers_include_each_other_and_nothing_from_disk() {
    let Some(toolchain) = toolchain() else { return };
    let input = scale(HOPPER)
        .header(Source::new("a/one.cuh", "#include \"b/two.cuh\"\n__device__ int one() { return two(); }\n"))
        .header(Source::new("b/two.cuh", "__device__ int two() { return 2; }\n"))
        .source(Source::new("user.cu", "#include \"a/one.cuh\"\n#include <factor.cuh>\n"));
    toolchain.compile(&input).unwrap();

    // Any file of the working directory: this crate's manifest, or part of a bundle.
    let mut files = std::fs::read_dir(".").unwrap().flatten().filter(|entry| entry.path().is_file());
    let file = files.next().unwrap().file_name().into_string().unwrap();
    let input = scale(HOPPER).source(Source::new("user.cu", format!("#include \"{file}\"\n")));
    let error = toolchain.compile(&input).unwrap_err();
    assert!(error.to_string().contains(&format!("could not open source file \"{file}\"")), "{error}");

    // With `-I`, the files of that folder may include each other.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("lib")).unwrap();
    std::fs::write(folder.path().join("lib/outer.cuh"), "#include \"inner.cuh\"\n").unwrap();
    std::fs::write(folder.path().join("lib/inner.cuh"), "#define INNER 1\n").unwrap();
    let input = scale(HOPPER)
        .source(Source::new("user.cu", "#include <lib/outer.cuh>\nstatic_assert(INNER == 1, \"\");\n"))
        .option(format!("-I{}", folder.path().display()));
    toolchain.compile(&input).unwrap();
}

#[test]
fn a_warning_is_returned_with_the_kernel() {
    let Some(toolchain) = toolchain() else { return };
    let input = scale(HOPPER).source(Source::new("w.cu", "__device__ void f() { int unused; }\n"));
    let kernel = toolchain.compile(&input).unwrap();
    let diagnostics = kernel.diagnostics();
    assert_eq!(diagnostics.len(), 1, "{}", kernel.log);
    assert_eq!(diagnostics[0].severity, Severity::Warning);
    assert_eq!(diagnostics[0].location, Some(("w.cu".into(), 1)));
    let quiet = toolchain.compile(&input.option("-diag-suppress=177")).unwrap();
    assert_eq!(quiet.diagnostics(), []);
}

#[test]
fn an_undefined_function_and_an_unknown_option_are_named() {
    let Some(toolchain) = toolchain() else { return };
    let text = "extern \"C\" __device__ int external(int);\nextern \"C\" __global__ void k(int* x) { *x = external(*x); }\n";
    let input = Input::new("k", HOPPER).source(Source::new("k.cu", text));
    let error = toolchain.compile(&input).unwrap_err();
    assert!(error.to_string().contains("Unresolved extern function 'external'"), "{error}");
    if toolchain.linker().is_ok() {
        assert!(matches!(error, CompileError::Rejected { stage: Stage::Linking, .. }), "{error:?}");
    }

    let error = toolchain.compile(&scale(HOPPER).option("-nonsense")).unwrap_err();
    assert!(error.to_string().contains("unrecognized option -nonsense"), "{error}");

    let error = toolchain.compile(&scale(Architecture { major: 2, minor: 0 })).unwrap_err();
    assert!(
        error.to_string().contains("sm_20") && error.to_string().contains("--gpu-architecture"),
        "{error}"
    );
}

#[test]
fn parts_of_other_front_ends_are_linked_in() {
    let Some(toolchain) = toolchain() else { return };
    if let Err(reason) = toolchain.linker() {
        return common::skipped(reason);
    }
    let nvrtc = Nvrtc::load(&search()).unwrap();
    let text = c"extern \"C\" __device__ int external(int x) { return x + 41; }";
    let mut program = nvrtc.program(text, c"part.cu", &[]).unwrap();
    let arch = CString::new(format!("-arch={HOPPER}")).unwrap();
    program.compile(&[&arch, c"-dlto", c"-rdc=true"]).unwrap();
    let part = program.lto_ir().unwrap();

    let text = "extern \"C\" __device__ int external(int);\nextern \"C\" __global__ void k(int* x) { *x = external(*x); }\n";
    let input = Input::new("k", HOPPER).source(Source::new("k.cu", text));
    let whole = toolchain.compile(&input.clone().lto_part(LtoIr::new("part", part.clone()))).unwrap();
    assert_eq!(whole.resource_usage().len(), 1, "{}", whole.log);

    // Bytes that are not LTO-IR are an error of the linker. Without a linker, any part is an error.
    let error = toolchain.compile(&input.clone().lto_part(LtoIr::new("part", vec![7; 100]))).unwrap_err();
    assert!(matches!(error, CompileError::Rejected { stage: Stage::Linking, .. }), "{error:?}");
    assert!(error.to_string().contains("nvJitLink, adding a part"), "{error}");
    let error = toolchain.without_linker().compile(&input.lto_part(LtoIr::new("part", part))).unwrap_err();
    assert!(matches!(error, CompileError::NeedsLinker { reason: NoLinker::Disabled, .. }), "{error:?}");
}

/// A kernel that stores this expression of `a`, `b` and `c`.
fn arithmetic(expression: &str, fast_math: bool) -> Input {
    let text = format!(
        "static __device__ float multiply(float a, float b) {{ return __fmul_rn(a, b); }}\n\
         static __device__ float add(float a, float b) {{ return __fadd_rn(a, b); }}\n\
         static __device__ double multiply(double a, double b) {{ return __dmul_rn(a, b); }}\n\
         static __device__ double add(double a, double b) {{ return __dadd_rn(a, b); }}\n\
         extern \"C\" __global__ void k(float *x, float a, float b, float c) {{ *x = {expression}; }}\n\
         extern \"C\" __global__ void d(double *x, double a, double b, double c) {{ *x = {expression}; }}\n"
    );
    Input::new("k", HOPPER).source(Source::new("k.cu", text)).fast_math(fast_math)
}

#[test]
fn products_are_fused_with_sums_only_if_fast_math_is_allowed() {
    let Some(toolchain) = toolchain() else { return };
    let fused = |expression, fast_math| {
        let ptx = toolchain.ptx(&arithmetic(expression, fast_math)).unwrap();
        let is_fused = |line: &&str| line.trim_start().starts_with("fma");
        ptx.lines().filter(is_fused).count()
    };
    assert_eq!(fused("a * b + c", false), 0);
    assert_eq!(fused("a * b + c", true), 2, "in float and in double");
    assert_eq!(fused("fma(a, b, c)", false), 2, "where the text says so");
}

/// The linker generates code from LTO-IR, of whatever front end, after the compiler has seen its options.
#[test]
fn linked_code_computes_what_its_text_says() {
    let Some(toolchain) = toolchain() else { return };
    for toolchain in [toolchain.clone(), toolchain.without_linker()] {
        let code =
            |expression, fast_math| toolchain.compile(&arithmetic(expression, fast_math)).unwrap().cubin;
        let (plain, fast, fused) =
            (code("a * b + c", false), code("a * b + c", true), code("fma(a, b, c)", false));
        assert!(plain != fast, "the option has an effect");
        assert!(fast == code("fma(a, b, c)", true), "it fuses");
        assert!(plain != fused, "without it, the product is rounded");
        assert!(plain == code("add(multiply(a, b), c)", false), "as in two steps");
    }
}

#[test]
fn ptx_can_be_read() {
    let Some(toolchain) = toolchain() else { return };
    let ptx = toolchain.ptx(&scale(HOPPER)).unwrap();
    assert!(ptx.contains(".target sm_90") && ptx.contains(".entry scale"), "{ptx}");
}

#[test]
fn a_missing_compiler_is_an_error_with_the_searched_locations() {
    let error = Toolchain::load(&Search::empty().at(Component::Nvrtc, "/no/such/folder")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("NVRTC could not be loaded:\n  /no/such/folder (named by the program):"),
        "{text}"
    );
    assert!(text.contains("No such file"), "{text}");
    let text = Toolchain::load(&Search::empty()).unwrap_err().to_string();
    assert!(
        text.contains("pip install nvidia-cuda-nvrtc==13.0.*") && text.contains("DOTCOMPUTE_NVRTC"),
        "{text}"
    );
}

#[test]
fn a_machine_without_the_linker_still_compiles() {
    let Some(_) = toolchain() else { return };
    let search = search().at(Component::NvJitLink, "/no/such/folder");
    let toolchain = Toolchain::load(&search).unwrap();
    assert!(matches!(toolchain.linker(), Err(NoLinker::Unavailable(_))), "{:?}", toolchain.linker());
    assert!(toolchain.compile(&scale(HOPPER)).is_ok());
}

#[test]
fn threads_compile_concurrently() {
    let Some(toolchain) = toolchain() else { return };
    let alone = toolchain.compile(&scale(HOPPER)).unwrap().cubin;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| toolchain.compile(&scale(HOPPER)).unwrap().cubin)).collect();
        for thread in threads {
            assert!(thread.join().unwrap() == alone);
        }
    });
}
