//! The cache with the real compiler. Without one the tests are skipped: see `common::toolchain`.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{ARCHITECTURES, scale, toolchain};
use dotcompute_cuda::cache::{Cache, Origin};

/// The only entry of a cache.
fn entry(cache: &Cache) -> PathBuf {
    let mut files = fs::read_dir(cache.folder().unwrap()).unwrap().map(|file| file.unwrap().path());
    let entry = files.next().expect("an entry");
    assert_eq!(files.next(), None);
    entry
}

#[test]
fn the_second_compilation_is_a_cache_hit_with_the_same_kernel() {
    let Some(toolchain) = toolchain() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("cache"));
    let input = scale(ARCHITECTURES[1]);
    let first = cache.compile(&toolchain, &input).unwrap();
    assert_eq!((first.origin, first.store_error), (Origin::Compiler, None));
    let second = cache.compile(&toolchain, &input).unwrap();
    assert_eq!((second.origin, second.store_error), (Origin::Cache, None));
    // The log contains the time of the compilation: equal logs are from the same one.
    assert!(second.kernel == first.kernel);
    assert_eq!(second.kernel.resource_usage(), first.kernel.resource_usage());

    let other = cache.compile(&toolchain, &scale(ARCHITECTURES[2])).unwrap();
    assert_eq!(other.origin, Origin::Compiler);
    let other = cache.compile(&toolchain, &scale(ARCHITECTURES[1]).option("-DX")).unwrap();
    assert_eq!(other.origin, Origin::Compiler);
    let other = cache.compile(&toolchain.without_linker(), &input).unwrap();
    assert_eq!(other.origin, Origin::Compiler);
}

#[test]
fn a_bad_entry_is_compiled_again_and_replaced() {
    let Some(toolchain) = toolchain() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let input = scale(ARCHITECTURES[1]);
    let good = cache.compile(&toolchain, &input).unwrap().kernel.cubin;
    let path = entry(&cache);
    let bytes = fs::read(&path).unwrap();

    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let cut = bytes[..bytes.len() - 1].to_vec();
    let bad = [
        ("checksum", flipped),
        ("checksum", cut),
        ("truncated", Vec::new()),
        ("not an entry", vec![b'x'; 500]),
    ];
    for (expected, bad) in bad {
        fs::write(&path, bad).unwrap();
        let again = cache.compile(&toolchain, &input).unwrap();
        let Origin::Replaced { problem } = &again.origin else { panic!("{:?}", again.origin) };
        assert!(problem.contains(expected) && problem.contains(path.to_str().unwrap()), "{problem}");
        assert!(again.kernel.cubin == good);
        assert_eq!(cache.compile(&toolchain, &input).unwrap().origin, Origin::Cache);
    }

    // The entry of another kernel under the name of this one.
    cache.compile(&toolchain, &scale(ARCHITECTURES[2])).unwrap();
    let mut files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let other = files.find(|file| *file != path).unwrap();
    fs::copy(other, &path).unwrap();
    let again = cache.compile(&toolchain, &input).unwrap();
    assert!(
        matches!(&again.origin, Origin::Replaced { problem } if problem.contains("another key")),
        "{again:?}"
    );
    assert!(again.kernel.cubin == good);
}

#[test]
fn an_unusable_cache_folder_is_not_an_error() {
    let Some(toolchain) = toolchain() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let cache = Cache::at(file.join("below"));
    let outcome = cache.compile(&toolchain, &scale(ARCHITECTURES[1])).unwrap();
    assert!(outcome.store_error.is_some_and(|reason| reason.contains("below")));

    let outcome = Cache::none().compile(&toolchain, &scale(ARCHITECTURES[1])).unwrap();
    assert_eq!((outcome.origin, outcome.store_error), (Origin::Compiler, None));
}

#[test]
fn a_failed_compilation_stores_nothing() {
    let Some(toolchain) = toolchain() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("cache"));
    assert!(cache.compile(&toolchain, &scale(ARCHITECTURES[1]).option("-nonsense")).is_err());
    assert!(!folder.path().join("cache").exists());
}

#[test]
fn concurrent_compilations_return_the_same_kernel() {
    let Some(toolchain) = toolchain() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let input = scale(ARCHITECTURES[1]);
    let cubins: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| cache.compile(&toolchain, &input).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().kernel.cubin).collect()
    });
    assert!(cubins.iter().all(|cubin| *cubin == cubins[0]));
    entry(&cache);
    assert_eq!(cache.compile(&toolchain, &input).unwrap().origin, Origin::Cache);
}
